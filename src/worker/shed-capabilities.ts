/**
 * Sheds the capabilities of a worker whose manager is not root and has some: ambient ones, or those of a Node binary
 * with file capabilities (capabilities(7)).
 *
 * Capabilities belong to threads, and Node has started threads before any code of this program runs; another thread
 * cannot change theirs. So the worker executes its program again from a thread that has none: execve(2) ends the other
 * threads, and gives no capabilities under no_new_privs.
 */
import { check } from "../sys/libc/bind.ts";
import { keepAcrossExec } from "../sys/libc/files.ts";
import { clearCapabilities, execute } from "../sys/libc/processes.ts";
import { REUNION_FD } from "../worker-protocol/messages.ts";

/** The argument of a worker that has done so: it does not try again. */
const SHED = "shed";

/** Returns only if it was done already. To be called under no_new_privs. @throws SystemError */
export function shedCapabilities(): void {
  const [, program = "", ...words] = process.argv;
  if (words.includes(SHED)) return;
  check("capset", clearCapabilities());
  // Node marks all inherited descriptors close-on-exec.
  for (let fd = 0; fd <= REUNION_FD; fd += 1) check("fcntl F_SETFD", keepAcrossExec(fd));
  check("execv", execute([process.execPath, ...process.execArgv, program, ...words, SHED]));
}
