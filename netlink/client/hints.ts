/**
 * What to check next, by command and errno. The nbd driver almost never fills extended acknowledgements, so these lines
 * take their place; its own reason is in the kernel log.
 *
 * A table and one look-up, called when an error is built. Facts: drivers/block/nbd.c and net/netlink/genetlink.c,
 * 6.1–7.2.
 */
import { constants } from "node:os";

/** One row: the first that fits is taken. */
export interface Hint {
  /** The family's name, or "*" for all. */
  readonly family: string;
  /** The command's name without prefix, or "*" for all. */
  readonly command: string;
  readonly errno: number;
  readonly hint: string;
}

const E = constants.errno;

/** The table, most specific rows first. */
export const HINTS: readonly Hint[] = [
  {
    family: "nbd",
    command: "GETFAMILY",
    errno: E.ENOENT,
    hint: "load the driver with `modprobe nbd`; before Linux 6.4 the family exists in the first network namespace only",
  },
  {
    family: "nbd",
    command: "CONNECT",
    errno: E.EBUSY,
    hint: "choose another index or none: this one is connected, or a process (udev, a reader) holds its node open",
  },
  {
    family: "nbd",
    command: "CONNECT",
    errno: E.EEXIST,
    hint: "try again: another connect created this index at the same moment",
  },
  {
    family: "nbd",
    command: "CONNECT",
    errno: E.EINVAL,
    hint:
      "check the index (below 32768, unless the driver was loaded with max_part=0), the block size (a power of two " +
      "from 512 up to the page size; up to 65536 on recent kernels), that every socket is a connected TCP or unix " +
      "stream, and that several sockets come with CAN_MULTI_CONN; the kernel log has the reason",
  },
  {
    family: "nbd",
    command: "RECONFIGURE",
    errno: E.EINVAL,
    hint:
      "check that the device exists, was connected through netlink and is still connected, and that the backend " +
      "identifier is the one given at connect; the kernel log has the reason",
  },
  {
    family: "nbd",
    command: "DISCONNECT",
    errno: E.EINVAL,
    hint: "check the index with status: no such device exists, or it is being removed",
  },
  {
    family: "nbd",
    command: "*",
    errno: E.EBADF,
    hint: "pass descriptors that are open in this process",
  },
  {
    family: "nbd",
    command: "*",
    errno: E.ENOTSOCK,
    hint: "pass sockets: one of the descriptors is something else",
  },
  {
    family: "nbd",
    command: "*",
    errno: E.EPERM,
    hint:
      "run as root: CAP_SYS_ADMIN in the first user namespace is needed where the client is opened and where it is " +
      "used",
  },
  {
    family: "nbd",
    command: "*",
    errno: E.ERANGE,
    hint: "report this with EROFS_NBD_DEBUG=netlink: an attribute is shorter than this kernel expects",
  },
  {
    family: "nbd",
    command: "*",
    errno: E.ENOMEM,
    hint: "free memory and try again: the kernel could not allocate what the command needs",
  },
  {
    family: "*",
    command: "GETFAMILY",
    errno: E.ENOENT,
    hint: "load the kernel module that provides this family; it may also be invisible in this network namespace",
  },
  {
    family: "*",
    command: "*",
    errno: E.EPERM,
    hint: "run with the capability that this family asks for, usually CAP_NET_ADMIN or CAP_SYS_ADMIN",
  },
  {
    family: "*",
    command: "*",
    errno: E.EOPNOTSUPP,
    hint: "check the kernel's version: this family knows no such command, or not as a dump",
  },
  {
    family: "*",
    command: "*",
    errno: E.ENOBUFS,
    hint: "ask for the state again: an answer was dropped, and whether the command was carried out is unknown",
  },
  {
    family: "*",
    command: "OPEN",
    errno: E.EPROTONOSUPPORT,
    hint: "use a kernel with generic netlink (CONFIG_NET)",
  },
  {
    family: "*",
    command: "OPEN",
    errno: E.EAFNOSUPPORT,
    hint: "use a kernel with netlink sockets, or allow AF_NETLINK in the sandbox",
  },
  { family: "*", command: "OPEN", errno: E.EMFILE, hint: "raise the limit of open files (ulimit -n)" },
];

/** The hint for a failed command, or undefined if the table has none. */
export function hintFor(family: string, command: string, errno: number | undefined): string | undefined {
  return HINTS.find(
    (row) =>
      (row.family === "*" || row.family === family) &&
      (row.command === "*" || row.command === command) &&
      row.errno === errno,
  )?.hint;
}
