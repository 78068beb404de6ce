/**
 * The errors of netlink/: DecodeError (malformed bytes), SyscallError (a libc call failed) and NetlinkError (a whole
 * request failed: the only class that callers of the clients receive).
 *
 * Programs switch on `code`, never on the class: two copies of a package break `instanceof`. Nothing here does I/O.
 */
import { constants } from "node:os";
import { getSystemErrorName } from "node:util";

/**
 * The stable reasons of a {@link NetlinkError}.
 *
 * | code | meaning |
 * |---|---|
 * | `ERR_NETLINK_REFUSED` | the kernel answered with an errno |
 * | `ERR_NETLINK_NO_FAMILY` | the kernel knows no generic netlink family of that name |
 * | `ERR_NETLINK_SYSCALL` | a system call failed; the request may not have reached the kernel |
 * | `ERR_NETLINK_ANSWER_LOST` | the request was handled, but the answer did not fit or was dropped (ENOBUFS) |
 * | `ERR_NETLINK_DECODE` | the kernel's answer could not be understood |
 * | `ERR_NETLINK_TIMEOUT` | the request was taken, no complete answer came in time |
 * | `ERR_NETLINK_DUMP_INTERRUPTED` | the listed objects kept changing while they were listed |
 * | `ERR_NETLINK_CLOSED` | the client was closed before or during the request |
 */
export type NetlinkErrorCode =
  | "ERR_NETLINK_REFUSED"
  | "ERR_NETLINK_NO_FAMILY"
  | "ERR_NETLINK_SYSCALL"
  | "ERR_NETLINK_ANSWER_LOST"
  | "ERR_NETLINK_DECODE"
  | "ERR_NETLINK_TIMEOUT"
  | "ERR_NETLINK_DUMP_INTERRUPTED"
  | "ERR_NETLINK_CLOSED";

/** Where it failed: the kernel's acknowledgement, a system call, the decoder, the deadline, or the caller's close. */
export type NetlinkErrorOrigin = "ack" | "syscall" | "decode" | "timeout" | "closed";

/**
 * The name of a Linux error number: 16 → "EBUSY". Numbers without a name come back as "errno 512".
 *
 * libuv calls 95 ENOTSUP; this returns EOPNOTSUPP, as the kernel's sources and log do.
 */
export function errnoName(errno: number): string {
  if (errno === constants.errno.EOPNOTSUPP) return "EOPNOTSUPP";
  if (!Number.isSafeInteger(errno) || errno <= 0) return `errno ${errno}`;
  const name = getSystemErrorName(-errno);
  return name.startsWith("E") ? name : `errno ${errno}`;
}

/** Bytes that break the wire format. Thrown by the pure codec; the clients wrap it in a {@link NetlinkError}. */
export class DecodeError extends Error {
  override readonly name = "DecodeError";
  readonly code = "ERR_NETLINK_DECODE";
  /** Offset of the first wrong byte. */
  readonly offsetBytes: number;

  constructor(what: string, offsetBytes: number) {
    super(`cannot decode netlink data: ${what} at byte ${offsetBytes}`);
    this.offsetBytes = offsetBytes;
  }
}

/** A libc call that returned -1. `errno` is that call's. */
export class SyscallError extends Error {
  override readonly name = "SyscallError";
  readonly code = "ERR_NETLINK_SYSCALL";
  readonly syscall: string;
  readonly errno: number;
  readonly errnoName: string;

  constructor(syscall: string, errno: number) {
    super(`cannot ${syscall} a netlink socket: ${errnoName(errno)} (${errno})`);
    this.syscall = syscall;
    this.errno = errno;
    this.errnoName = errnoName(errno);
  }
}

/** What {@link NetlinkError}'s constructor takes; the fields are described there. */
export interface NetlinkErrorDetails {
  readonly code: NetlinkErrorCode;
  readonly origin: NetlinkErrorOrigin;
  readonly purpose: string;
  readonly command: string;
  readonly errno?: number | undefined;
  readonly reason?: string | undefined;
  readonly kernelMessage?: string | undefined;
  readonly kernelAttribute?: string | undefined;
  readonly kernelAttributeProblem?: "missing" | "rejected" | undefined;
  readonly sequence?: number | undefined;
  readonly deviceIndex?: number | undefined;
  readonly hint?: string | undefined;
  readonly cause?: unknown;
}

function describe(details: NetlinkErrorDetails): string {
  const errno = details.errno;
  const failure = errno === undefined ? "" : `${errnoName(errno)} (${errno})`;
  if (details.reason !== undefined) {
    return `cannot ${details.purpose}: ${details.reason}${failure === "" ? "" : `: ${failure}`}`;
  }
  const parts = [`${failure} from ${details.command}`];
  if (details.origin === "ack") {
    parts.push(
      details.kernelMessage === undefined
        ? "no kernel message"
        : `the kernel says '${details.kernelMessage}'`,
    );
  }
  if (details.kernelAttribute !== undefined) {
    parts.push(`attribute ${details.kernelAttribute} ${details.kernelAttributeProblem ?? "rejected"}`);
  }
  return `cannot ${details.purpose}: ${parts.join(", ")}`;
}

/**
 * A netlink request that failed as a whole, for example
 * `cannot connect nbd3: EBUSY (16) from CONNECT, no kernel message`.
 */
export class NetlinkError extends Error {
  override readonly name = "NetlinkError";
  readonly code: NetlinkErrorCode;
  readonly origin: NetlinkErrorOrigin;
  /** The command's name in the kernel header, without its prefix: CONNECT, GETFAMILY, … */
  readonly command: string;
  /** The error number, positive; absent where none exists (timeout, decode, closed). */
  readonly errno: number | undefined;
  readonly errnoName: string | undefined;
  /** The text of the extended acknowledgement (NLMSGERR_ATTR_MSG), if the kernel sent one. */
  readonly kernelMessage: string | undefined;
  /** The attribute that the kernel rejected, by its header name; nested names are joined by dots. */
  readonly kernelAttribute: string | undefined;
  readonly kernelAttributeProblem: "missing" | "rejected" | undefined;
  /** The sequence number of the request, to find it in a dump of the traffic. */
  readonly sequence: number | undefined;
  /** The N of /dev/nbdN, if the request named one. */
  readonly deviceIndex: number | undefined;
  /** One imperative line: what to check next. */
  readonly hint: string | undefined;

  constructor(details: NetlinkErrorDetails) {
    super(describe(details), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code;
    this.origin = details.origin;
    this.command = details.command;
    this.errno = details.errno;
    this.errnoName = details.errno === undefined ? undefined : errnoName(details.errno);
    this.kernelMessage = details.kernelMessage;
    this.kernelAttribute = details.kernelAttribute;
    this.kernelAttributeProblem = details.kernelAttributeProblem;
    this.sequence = details.sequence;
    this.deviceIndex = details.deviceIndex;
    this.hint = details.hint;
  }
}
