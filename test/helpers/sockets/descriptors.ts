/**
 * This process's open descriptors, for tests that nothing was left open. Node's own (event loop, pipes of children)
 * come and go as it likes, so only sockets, files and epoll instances opened on purpose count.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

const O_CLOEXEC = 0o2000000;

/** descriptor → what it refers to, such as `socket:[4711]`. */
export function openDescriptors(): Map<number, string> {
  const found = new Map<number, string>();
  for (const name of readdirSync("/proc/self/fd")) {
    try {
      const target = readlinkSync(`/proc/self/fd/${name}`);
      if (!/^(pipe:|\/dev\/|\/proc\/|anon_inode:\[(eventfd|io_uring|signalfd)\])/.test(target))
        found.set(Number(name), target);
    } catch {
      // the descriptor of the listing itself
    }
  }
  return found;
}

/** Whether a descriptor would survive an exec. */
export function isCloseOnExec(fd: number): boolean {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
  return (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0;
}
