/**
 * Meeting the workers that a former manager left behind: they serve on, and tell every link they have.
 *
 * Each worker listens on a socket of its own in the run directory. Connecting there makes us its manager. A socket that
 * nobody listens on is a dead worker's; a worker that does not answer hangs, and is left to the caller to end. A worker
 * has fewer rights than we have: what it says of itself is checked before anything is done about it.
 */
import { fstatSync, readdirSync, readlinkSync, realpathSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { JOURNAL_BYTES } from "../journal/journal.ts";
import { ERRNO, SystemError } from "../sys/errno.ts";
import { close, duplicate, effectiveUid, peerCredentials, pidfdOpen } from "../sys/libc.ts";
import { isAlive, type ProcessIdentity } from "../sys/process-identity.ts";
import { Channel } from "../sys/sockets/channel.ts";
import { connectMessages } from "../sys/sockets/listen.ts";
import { isFromWorker } from "../worker-protocol/from-worker.ts";
import type { FromWorker, ServedLinkDescription, ToWorker } from "../worker-protocol/messages.ts";
import { linkFds } from "../worker-protocol/messages.ts";

/** A link as its worker has described it, with our duplicates of its descriptors in the order of LINK_FDS, and of its lease's. */
export interface ToldLink {
  readonly description: ServedLinkDescription;
  readonly fds: readonly number[];
}

export interface ReconnectedWorker {
  readonly pid: number;
  /** pidfd_open(2); whoever gets it closes it. */
  readonly pidFd: number;
  readonly socketPath: string;
  /** The connection, for a WorkerProcess to go on with. */
  readonly channelFd: number;
  readonly links: readonly ToldLink[];
}

/** A worker in the middle of a long read answers after it. */
const PATIENCE_MS = 3000;
const TURN_MS = 100;
/** The smallest there are: a file that fills these fills larger ones, too. */
const PAGE_BYTES = 4096;

export interface ReattachResult {
  readonly met: readonly ReconnectedWorker[];
  /** Workers that are there and do not answer. */
  readonly silent: readonly ProcessIdentity[];
}

/** The file name of a worker's socket. */
export const workerSocketName = ({ pid, startTime }: ProcessIdentity): string => `${pid}-${startTime}.sock`;

/** Every worker that answers, and who does not. Dead ones' sockets are removed. */
export async function reattachWorkers(directory: string, journals: string): Promise<ReattachResult> {
  // A manager that died in a worker's start may have left one without its name: its worker has a link to nobody.
  const names = readdirSync(directory).filter((name) => /^new-|\.sock$/.test(name));
  // As the kernel names them: the way to the run directory may go over a symbolic link.
  const real = realpathSync(journals);
  const all = await Promise.all(names.map((name) => reattach(join(directory, name), real)));
  const met = all.filter((one) => one !== undefined);
  const answered = new Set(met.map(({ socketPath }) => basename(socketPath)));
  const silent = names
    .filter((name) => !answered.has(name))
    .map(identityIn)
    .filter((one) => one !== undefined && isAlive(one)) as ProcessIdentity[];
  return { met, silent };
}

function identityIn(socketName: string): ProcessIdentity | undefined {
  const [, pid, startTime] = /^([1-9]\d*)-(\d+)\.sock$/.exec(socketName) ?? [];
  return pid === undefined || startTime === undefined ? undefined : { pid: Number(pid), startTime };
}

async function reattach(socketPath: string, journals: string): Promise<ReconnectedWorker | undefined> {
  let fd: number;
  try {
    fd = connectMessages(socketPath);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    // Only where nobody listens: without a descriptor to spare we are the one who is at fault.
    if (error.errno === ERRNO.ECONNREFUSED) rmSync(socketPath, { force: true });
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
  let said: { pidFd: number; pid: number; links: number } | undefined;
  const told = await new Promise<boolean>((resolve) => {
    // Nothing is heard any more after that: a duplicate of a socket that nobody closes would keep it from ever dying.
    const finish = (toldAll: boolean): void => {
      clearTimeout(patience);
      channel.close();
      resolve(toldAll);
    };
    // Counted in turns of our own: what came in while this process stood still is heard before the next one.
    let patience: NodeJS.Timeout;
    const turn = (leftMs: number): void => {
      if (leftMs <= 0) return finish(false);
      patience = setTimeout(() => turn(leftMs - TURN_MS), TURN_MS);
    };
    turn(PATIENCE_MS);
    const channel = new Channel<FromWorker, ToWorker>(fd, {
      message: (message, fds, senderPid) => {
        const link = isFromWorker(message) ? toldLink(message, fds, journals) : undefined;
        if (link !== undefined) links.push(link);
        else for (const one of fds) close(one);
        // Its pid will be sent signals to: the kernel's word counts, and only while it is that process's.
        if (
          isFromWorker(message) &&
          message.type === "reunion" &&
          message.pid === senderPid &&
          said === undefined
        ) {
          const pidFd = pidfdOpen(message.pid);
          if (pidFd < 0) return finish(false);
          said = { pidFd, pid: message.pid, links: message.links };
        }
        if (said !== undefined && links.length >= said.links) finish(true);
      },
      end: () => finish(false),
    });
  });
  if (told && said !== undefined) return { pid: said.pid, pidFd: said.pidFd, socketPath, channelFd, links };
  close(channelFd);
  if (said !== undefined) close(said.pidFd);
  for (const link of links) for (const one of link.fds) close(one);
  return undefined;
}

function toldLink(message: FromWorker, fds: readonly number[], journals: string): ToldLink | undefined {
  if (message.type !== "held" || fds.length !== linkFds(message) || !isJournal(fds[2] as number, journals))
    return undefined;
  const { type: _, ...description } = message;
  return { description, fds };
}

/**
 * A journal is removed by its path in the end, with our rights: it must be one of this run directory. And it is
 * mapped: one that was cut short would end us, and every manager after us. (A former version's ends a little earlier,
 * within the last page.)
 */
function isJournal(fd: number, journals: string): boolean {
  const pages = (sizeBytes: number): number => Math.ceil(sizeBytes / PAGE_BYTES);
  return (
    dirname(readlinkSync(`/proc/self/fd/${fd}`)) === journals &&
    pages(fstatSync(fd).size) >= pages(JOURNAL_BYTES)
  );
}
