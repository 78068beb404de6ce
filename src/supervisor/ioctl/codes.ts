/**
 * The legacy ioctls of the nbd driver (include/uapi/linux/nbd.h, `_IO(0xab, n)`).
 *
 * They need CAP_SYS_ADMIN. On a device that was configured through netlink all but DISCONNECT and CLEAR_SOCK fail.
 */
export const NBD_SET_SOCK = 0xab00;
export const NBD_SET_BLKSIZE = 0xab01;
export const NBD_DO_IT = 0xab03;
export const NBD_CLEAR_SOCK = 0xab04;
export const NBD_SET_SIZE_BLOCKS = 0xab07;
export const NBD_DISCONNECT = 0xab08;
export const NBD_SET_TIMEOUT = 0xab09;
export const NBD_SET_FLAGS = 0xab0a;

/** The one argument of the process, as JSON. */
export type IoctlClientArguments =
  | IoctlConnectArguments
  | { readonly act: "disconnect"; readonly index: number };

export interface IoctlConnectArguments {
  readonly act: "connect";
  /** Indexes to try, in this order; the first free device is taken. */
  readonly candidates: readonly number[];
  readonly blockSizeBytes: number;
  readonly sizeBlocks: number;
  readonly timeoutSeconds: number;
  readonly serverFlags: number;
}

/** Its output, one JSON line each: `connected` before it enters DO_IT, `ended` after it, or why it could not. */
export type IoctlClientMessage =
  | { readonly type: "connected"; readonly index: number }
  | { readonly type: "busy"; readonly tried: readonly number[] }
  | { readonly type: "failed"; readonly ioctl: string; readonly errno: number; readonly index: number }
  | { readonly type: "ended"; readonly errno: number };

/** The descriptor of the kernel end in the process. */
export const SOCKET_FD = 3;
