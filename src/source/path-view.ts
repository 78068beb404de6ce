/**
 * From where a process looks when it follows an absolute path: two with the same view find the same file at the
 * same path.
 *
 * For source modules, which every worker loads by its path: no descriptor can stand for a module and all that it
 * imports. The caller says its view and the manager compares it with its own. /proc/PID would tell it of the
 * caller, too, but not to a manager without CAP_SYS_PTRACE, which a service is, and not after the caller has ended.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, readlinkSync } from "node:fs";

/** include/uapi/asm-generic/fcntl.h */
const O_PATH = 0o10000000;

/**
 * The mount namespace, and the root directory as a place on one of its mounts; undefined where there is no /proc to
 * tell.
 */
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
