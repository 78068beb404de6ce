/**
 * The view in which a process follows absolute paths: two processes with the same view find the same file at a path.
 *
 * For source modules, which every worker loads by path: no descriptor can stand for a module and its imports. The
 * caller sends its view, and the manager compares it with its own. The manager cannot read the view from the caller's
 * /proc/PID: that needs CAP_SYS_PTRACE, which a service does not have, and a caller that is still alive.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, readlinkSync } from "node:fs";

/** include/uapi/asm-generic/fcntl.h */
const O_PATH = 0o10000000;

/** The mount namespace, and the root directory as an inode on one of its mounts; undefined without /proc. */
export function pathView(): string | undefined {
  try {
    const namespace = readlinkSync("/proc/self/ns/mnt");
    const fd = openSync("/", O_PATH | constants.O_DIRECTORY);
    try {
      const mount = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1];
      return mount && `${namespace} root ${fstatSync(fd, { bigint: true }).ino} on mount ${mount}`;
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}
