/**
 * A way out of capabilities for a worker whose manager is not root and has some: ambient ones, or those of a Node with file
 * capabilities (capabilities(7)).
 *
 * They are a thread's, and Node has started threads before any code of ours runs, which keep theirs whatever we do. So the worker
 * runs its program anew from a thread that has none: execve(2) ends the others, and under no_new_privs it gives nothing.
 */
import { check, clearCapabilities, execute, keepAcrossExec } from "../sys/libc.ts";
import { REUNION_FD } from "../worker-protocol/messages.ts";

/** The argument of a worker that has done so: if it still has any it is not tried again. */
const SHED = "shed";

/** Does not return, unless it was done already. To be called under no_new_privs. @throws SystemError */
export function shedCapabilities(): void {
  const [, program = "", ...words] = process.argv;
  if (words.includes(SHED)) return;
  check("capset", clearCapabilities());
  // Node marks all that it is given as close-on-exec.
  for (let fd = 0; fd <= REUNION_FD; fd += 1) check("fcntl F_SETFD", keepAcrossExec(fd));
  check("execv", execute([process.execPath, ...process.execArgv, program, ...words, SHED]));
}
