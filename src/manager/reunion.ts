/**
 * Meeting the workers that a former manager left behind: they serve on, and tell every link they have.
 *
 * Each worker listens on a socket of its own in the run directory. Connecting there makes us its manager. A socket that
 * nobody listens on is a dead worker's; a worker that does not answer hangs, and is left to the caller to end. A worker
 * has fewer rights than we have: what it says of itself is checked before anything is done about it.
 */
import { readdirSync, readlinkSync, realpathSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { Channel } from "../sys/channel.ts";
import { SystemError } from "../sys/errno.ts";
import { close, duplicate, effectiveUid, peerCredentials } from "../sys/libc.ts";
import { connectMessages } from "../sys/listen.ts";
import type { FromWorker, ServedLinkDescription, ToWorker } from "../worker/worker-protocol.ts";
import { LINK_FDS } from "../worker/worker-protocol.ts";
import { isFromWorker } from "./worker-words.ts";

/** A link as its worker has described it, with our duplicates of its descriptors in the order of LINK_FDS. */
export interface ToldLink {
  readonly description: ServedLinkDescription;
  readonly fds: readonly number[];
}

export interface Acquaintance {
  readonly pid: number;
  readonly socketPath: string;
  /** The connection, for a WorkerProcess to go on with. */
  readonly channelFd: number;
  readonly links: readonly ToldLink[];
}

/** A worker in the middle of a long read answers after it. */
const PATIENCE_MS = 3000;

/** Every worker that answers. Dead ones' sockets are removed. */
export async function meetWorkers(directory: string, journals: string): Promise<Acquaintance[]> {
  const names = readdirSync(directory).filter((name) => name.endsWith(".sock"));
  // As the kernel names them: the way to the run directory may go over a symbolic link.
  const real = realpathSync(journals);
  const met = await Promise.all(names.map((name) => meet(join(directory, name), real)));
  return met.filter((one) => one !== undefined);
}

async function meet(socketPath: string, journals: string): Promise<Acquaintance | undefined> {
  let fd: number;
  try {
    fd = connectMessages(socketPath);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    rmSync(socketPath, { force: true });
    return undefined;
  }
  // Whoever made the socket was a manager of ours; its worker has it since.
  if (peerCredentials(fd).uid !== effectiveUid()) {
    close(fd);
    return undefined;
  }
  // The channel takes its descriptor over and will close it; the connection itself goes on with this one.
  const channelFd = duplicate(fd);
  const links: ToldLink[] = [];
  const pid = await new Promise<number | undefined>((resolve) => {
    let said: { pid: number; links: number } | undefined;
    const patience = setTimeout(() => resolve(undefined), PATIENCE_MS);
    const channel = new Channel<FromWorker, ToWorker>(fd, {
      message: (message, fds, senderPid) => {
        // Its pid will be sent signals to: the kernel's word counts.
        if (!isFromWorker(message) || (message.type === "reunion" && message.pid !== senderPid)) {
          for (const one of fds) close(one);
          return;
        }
        if (message.type === "reunion") said = message;
        if (message.type === "held" && fds.length === LINK_FDS && isJournal(fds[2] as number, journals)) {
          const { type: _, ...description } = message;
          links.push({ description, fds });
        } else for (const one of fds) close(one);
        if (said === undefined || links.length < said.links) return;
        clearTimeout(patience);
        channel.close();
        resolve(said.pid);
      },
      end: () => resolve(undefined),
    });
  });
  if (pid !== undefined) return { pid, socketPath, channelFd, links };
  close(channelFd);
  for (const link of links) for (const one of link.fds) close(one);
  return undefined;
}

/** A journal is removed by its path in the end, with our rights: it must be one of this run directory. */
function isJournal(fd: number, journals: string): boolean {
  return dirname(readlinkSync(`/proc/self/fd/${fd}`)) === journals;
}
