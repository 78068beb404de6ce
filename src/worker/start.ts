/**
 * Entry of a worker process, started by the manager with its end of the control channel as descriptor 3 and a
 * listening socket for later managers as 4. The build makes worker/main.cjs of it.
 *
 * No signal ends it in an orderly way: a worker may be killed at any instant, and that is all the ending it needs.
 * SIGIO tells it that a process wants to write an image (lease-keeper.ts), and what Node itself does at a signal is
 * taken from it.
 */
import { closeInherited } from "../sys/inherited.ts";
import { effectiveUid } from "../sys/libc.ts";
import { AWAITED, CONTROL_FD, REUNION_FD } from "../worker-protocol/messages.ts";
import { dropPrivileges, refuseInspector } from "./privileges.ts";
import { Worker } from "./worker.ts";

process.title = "erofs-nbd worker";
const managerUid = effectiveUid();
// A program with an NbdManager may have opened some without care. Before a module's code can use them.
closeInherited(REUNION_FD + 1);
refuseInspector();
dropPrivileges();
const isAwaited = process.argv.includes(AWAITED);
new Worker({ controlFd: CONTROL_FD, reunionFd: REUNION_FD, managerUid, isAwaited }, () => process.exit(0));
