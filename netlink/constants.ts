/**
 * The numbers of netlink, generic netlink and the nbd family, spelled as in the kernel's headers.
 *
 * Imported by every other file of this folder; imports nothing. Each block names its header; all values are
 * user-space ABI and were compared with Linux 6.1, 6.12 and 7.2.
 */

// include/linux/socket.h, include/uapi/asm-generic/socket.h
export const AF_NETLINK = 16;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SOL_NETLINK = 270;
export const SO_RCVBUF = 8;
export const SO_RCVBUFFORCE = 33;
export const MSG_PEEK = 0x02;
export const MSG_TRUNC = 0x20;

// include/uapi/linux/netlink.h: protocol and socket options
export const NETLINK_GENERIC = 16;
export const NETLINK_ADD_MEMBERSHIP = 1;
export const NETLINK_CAP_ACK = 10;
export const NETLINK_EXT_ACK = 11;

// include/uapi/linux/netlink.h: struct nlmsghdr, its types and flags
export const NLMSG_HDRLEN = 16;
export const NLMSG_NOOP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
export const NLMSG_OVERRUN = 4;
export const NLM_F_REQUEST = 0x01;
export const NLM_F_MULTI = 0x02;
export const NLM_F_ACK = 0x04;
export const NLM_F_DUMP_INTR = 0x10;
export const NLM_F_ROOT = 0x100;
export const NLM_F_MATCH = 0x200;
export const NLM_F_DUMP = 0x300;
/** On an NLMSG_ERROR: the request is not repeated after its header. */
export const NLM_F_CAPPED = 0x100;
/** On an NLMSG_ERROR or NLMSG_DONE: extended-acknowledgement attributes follow. */
export const NLM_F_ACK_TLVS = 0x200;

// include/uapi/linux/netlink.h: enum nlmsgerr_attrs
export const NLMSGERR_ATTR_MSG = 1;
export const NLMSGERR_ATTR_OFFS = 2;
export const NLMSGERR_ATTR_MISS_TYPE = 5;
export const NLMSGERR_ATTR_MISS_NEST = 6;

// include/uapi/linux/netlink.h: struct nlattr
export const NLA_HDRLEN = 4;
export const NLA_F_NESTED = 0x8000;
export const NLA_F_NET_BYTEORDER = 0x4000;
export const NLA_TYPE_MASK = 0x3fff;
/** The longest attribute payload: nla_len is 16 bits wide and counts the header. */
export const NLA_MAX_PAYLOAD_BYTES: number = 0xffff - NLA_HDRLEN;

// include/uapi/linux/genetlink.h
export const GENL_HDRLEN = 4;
export const GENL_ID_CTRL = 16;
export const CTRL_CMD_NEWFAMILY = 1;
export const CTRL_CMD_DELFAMILY = 2;
export const CTRL_CMD_GETFAMILY = 3;
export const CTRL_CMD_NEWMCAST_GRP = 7;
export const CTRL_CMD_DELMCAST_GRP = 8;
export const CTRL_ATTR_FAMILY_ID = 1;
export const CTRL_ATTR_FAMILY_NAME = 2;
export const CTRL_ATTR_VERSION = 3;
export const CTRL_ATTR_HDRSIZE = 4;
export const CTRL_ATTR_MAXATTR = 5;
export const CTRL_ATTR_OPS = 6;
export const CTRL_ATTR_MCAST_GROUPS = 7;
export const CTRL_ATTR_OP_ID = 1;
export const CTRL_ATTR_OP_FLAGS = 2;
export const CTRL_ATTR_MCAST_GRP_NAME = 1;
export const CTRL_ATTR_MCAST_GRP_ID = 2;
/** The controller's own group: families and groups that come and go (net/netlink/genetlink.c, genl_ctrl_groups). */
export const CTRL_NOTIFY_GROUP_NAME = "notify";

// include/uapi/linux/nbd-netlink.h
export const NBD_GENL_FAMILY_NAME = "nbd";
export const NBD_GENL_VERSION = 1;
export const NBD_GENL_MCAST_GROUP_NAME = "nbd_mc_group";
export const NBD_CMD_CONNECT = 1;
export const NBD_CMD_DISCONNECT = 2;
export const NBD_CMD_RECONFIGURE = 3;
export const NBD_CMD_LINK_DEAD = 4;
export const NBD_CMD_STATUS = 5;
export const NBD_ATTR_INDEX = 1;
export const NBD_ATTR_SIZE_BYTES = 2;
export const NBD_ATTR_BLOCK_SIZE_BYTES = 3;
export const NBD_ATTR_TIMEOUT = 4;
export const NBD_ATTR_SERVER_FLAGS = 5;
export const NBD_ATTR_CLIENT_FLAGS = 6;
export const NBD_ATTR_SOCKETS = 7;
export const NBD_ATTR_DEAD_CONN_TIMEOUT = 8;
export const NBD_ATTR_DEVICE_LIST = 9;
export const NBD_ATTR_BACKEND_IDENTIFIER = 10;
export const NBD_SOCK_ITEM = 1;
export const NBD_SOCK_FD = 1;
export const NBD_DEVICE_ITEM = 1;
export const NBD_DEVICE_INDEX = 1;
export const NBD_DEVICE_CONNECTED = 2;

// include/uapi/linux/nbd.h: NBD_ATTR_SERVER_FLAGS (what the server can do) …
export const NBD_FLAG_HAS_FLAGS = 0x1;
export const NBD_FLAG_READ_ONLY = 0x2;
export const NBD_FLAG_SEND_FLUSH = 0x4;
export const NBD_FLAG_SEND_FUA = 0x8;
export const NBD_FLAG_ROTATIONAL = 0x10;
export const NBD_FLAG_SEND_TRIM = 0x20;
export const NBD_FLAG_SEND_WRITE_ZEROES = 0x40;
/** Needed for more than one socket, else CONNECT gets EINVAL. */
export const NBD_FLAG_CAN_MULTI_CONN = 0x100;
// … and NBD_ATTR_CLIENT_FLAGS (what the driver shall do)
/** Delete the block device after disconnect and last close. */
export const NBD_CFLAG_DESTROY_ON_DISCONNECT = 0x1;
/** Disconnect when the last opener closes the node. */
export const NBD_CFLAG_DISCONNECT_ON_CLOSE = 0x2;
