/**
 * Entry of a process that opens images for a manager, which must not wait for a file system itself: one on a network or
 * in user space may take for ever to open a file. The build bundles it as opener/main.cjs.
 *
 * It takes one order at a time from the socket at OPENER_FD, and ends with that socket. The manager (image-openers.ts)
 * leaves it alone when an open does not return: it can be neither interrupted nor, for some file systems, killed. So it
 * has no descriptor of the manager's.
 */
import { ERRNO } from "../sys/errno.ts";
import { MountTable } from "../sys/files/mount-table.ts";
import { closeInherited } from "../sys/inherited.ts";
import { close } from "../sys/libc/files.ts";
import { MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, recvmsg, sendmsg } from "../sys/libc/sockets.ts";
import { MessageHeader } from "../sys/sockets/message-header.ts";
import { OPENER_FD, type OpenerAnswer, type OpenOrder } from "./messages.ts";
import { type ReopenedImage, reopenByHandle, reopenByPath } from "./reopen-image.ts";

/** An order has a path and a handle at most. */
const MAX_ORDER_BYTES = 64 * 1024;
const MOUNTS_MS = 200;

process.title = "erofs-nbd opener";
closeInherited(OPENER_FD + 1);
const header = new MessageHeader(1, false);
const incoming = new Uint8Array(MAX_ORDER_BYTES);

function answer(message: OpenerAnswer, fds: readonly number[] = []): void {
  const body = new TextEncoder().encode(JSON.stringify(message));
  // The manager has gone, or no longer wants it.
  if (sendmsg(OPENER_FD, header.toSend(body, fds), MSG_NOSIGNAL) < 0) process.exit(0);
}

/** Hundreds of orders come at once, each after the answer to the last: the table is read once for them. */
let mounts: { readonly table: MountTable; readonly readAtMs: number } | undefined;

/** Undefined without /proc. */
function recentMounts(): MountTable | undefined {
  const nowMs = performance.now();
  try {
    if (mounts === undefined || nowMs - mounts.readAtMs > MOUNTS_MS)
      mounts = { table: new MountTable(), readAtMs: nowMs };
    return mounts.table;
  } catch {
    return undefined;
  }
}

function open({ image, handle }: OpenOrder): void {
  const found = handle === null ? reopenByPath(image) : reopenByHandle(image, handle, recentMounts());
  if (found === undefined) return answer({ type: "missing" });
  if ("why" in found) return answer({ type: "lost", ...found });
  hand(found);
}

function hand({ fd, spec }: ReopenedImage): void {
  answer({ type: "opened", spec }, [fd]);
  close(fd);
}

answer({ type: "ready" });
for (;;) {
  const received = recvmsg(OPENER_FD, header.toReceive(incoming), MSG_CMSG_CLOEXEC);
  if (received === -ERRNO.EINTR) continue;
  if (received <= 0) process.exit(0);
  open(JSON.parse(new TextDecoder().decode(incoming.subarray(0, received))) as OpenOrder);
}
