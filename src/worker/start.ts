/**
 * Entry of a worker process. The manager starts it with the worker's end of the control channel as descriptor 3 and a
 * listening socket for later managers as 4. The build bundles it as worker/main.cjs.
 *
 * There is no orderly end by a signal: a worker may be killed at any instant. SIGIO reports that another process opens
 * an image for writing (lease-keeper.ts). Node's own reaction to SIGUSR1 is disabled.
 */
import { closeInherited } from "../sys/inherited.ts";
import { effectiveUid } from "../sys/libc/processes.ts";
import { AWAITED, CONTROL_FD, REUNION_FD } from "../worker-protocol/messages.ts";
import { dropPrivileges, refuseInspector } from "./privileges.ts";
import { Worker } from "./worker.ts";

process.title = "erofs-nbd worker";
const managerUid = effectiveUid();
// A program with an NbdManager may leak descriptors. They are closed before code of a source module can use them.
closeInherited(REUNION_FD + 1);
refuseInspector();
dropPrivileges();
const isAwaited = process.argv.includes(AWAITED);
new Worker({ controlFd: CONTROL_FD, reunionFd: REUNION_FD, managerUid, isAwaited }, () => process.exit(0));
