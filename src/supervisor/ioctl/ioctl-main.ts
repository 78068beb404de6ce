/**
 * Entry of the process that carries an ioctl device: it configures the device and then stays inside NBD_DO_IT.
 *
 * IoctlClient starts it. DO_IT blocks its thread for the device's whole life. When the process is killed, or the link
 * ends, the kernel ends the device: this path has no second socket, and reads do not wait.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { configuringThread, devicePath } from "../../kernel/sysfs.ts";
import { ERRNO } from "../../sys/errno.ts";
import { ioctl } from "../../sys/libc/files.ts";
import {
  type IoctlClientArguments,
  type IoctlClientMessage,
  type IoctlConnectArguments,
  NBD_CLEAR_SOCK,
  NBD_DISCONNECT,
  NBD_DO_IT,
  NBD_SET_BLKSIZE,
  NBD_SET_FLAGS,
  NBD_SET_SIZE_BLOCKS,
  NBD_SET_SOCK,
  NBD_SET_TIMEOUT,
  SOCKET_FD,
} from "./codes.ts";

function say(message: IoctlClientMessage): void {
  writeSync(1, `${JSON.stringify(message)}\n`);
}

/** Configures one device; returns the ioctl that failed, if one did. */
function configure(
  fd: number,
  wanted: IoctlConnectArguments,
): { readonly ioctl: string; readonly errno: number } | undefined {
  const steps: ReadonlyArray<readonly [name: string, request: number, argument: number]> = [
    ["NBD_CLEAR_SOCK", NBD_CLEAR_SOCK, 0],
    ["NBD_SET_BLKSIZE", NBD_SET_BLKSIZE, wanted.blockSizeBytes],
    ["NBD_SET_SIZE_BLOCKS", NBD_SET_SIZE_BLOCKS, wanted.sizeBlocks],
    ["NBD_SET_TIMEOUT", NBD_SET_TIMEOUT, wanted.timeoutSeconds],
    ["NBD_SET_FLAGS", NBD_SET_FLAGS, wanted.serverFlags],
    ["NBD_SET_SOCK", NBD_SET_SOCK, SOCKET_FD],
  ];
  for (const [name, request, argument] of steps) {
    const result = ioctl(fd, request, argument);
    if (result < 0) return { ioctl: name, errno: -result };
  }
  return undefined;
}

function connect(wanted: IoctlConnectArguments): number {
  for (const index of wanted.candidates) {
    // It is in use: clearing its socket would end it.
    if (configuringThread(index) !== undefined) continue;
    let fd: number;
    try {
      fd = openSync(devicePath(index), "r");
    } catch {
      // It has no node, or vanished: try the next one.
      continue;
    }
    const failed = configure(fd, wanted);
    if (failed !== undefined) {
      closeSync(fd);
      if (failed.errno === ERRNO.EBUSY) continue;
      say({ type: "failed", index, ...failed });
      return 2;
    }
    say({ type: "connected", index });
    const result = ioctl(fd, NBD_DO_IT, 0);
    ioctl(fd, NBD_CLEAR_SOCK, 0);
    say({ type: "ended", errno: Math.max(0, -result) });
    return 0;
  }
  say({ type: "busy", tried: wanted.candidates });
  return 2;
}

/** Sends a disconnect request on the link; the server closes it, and the process inside DO_IT returns. */
function disconnect(index: number): number {
  const result = ioctl(openSync(devicePath(index), "r"), NBD_DISCONNECT, 0);
  if (result < 0) say({ type: "failed", ioctl: "NBD_DISCONNECT", errno: -result, index });
  return result < 0 ? 2 : 0;
}

process.title = "erofs-nbd ioctl client";
const wanted = JSON.parse(process.argv[2] ?? "{}") as IoctlClientArguments;
process.exit(wanted.act === "connect" ? connect(wanted) : disconnect(wanted.index));
