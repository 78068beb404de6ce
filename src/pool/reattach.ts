/**
 * Reconnects to the workers of a former manager, which go on serving and report their links.
 *
 * Each worker listens on a socket of its own in the run directory. The process that connects becomes its manager. A
 * socket without a listener belongs to a dead worker. A worker that does not answer hangs, and the caller kills it.
 * Workers have fewer rights than the manager, so what they report is checked before it is used.
 */
import { fstatSync, readdirSync, readlinkSync, realpathSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { JOURNAL_BYTES } from "../journal/layout.ts";
import { ERRNO, SystemError } from "../sys/errno.ts";
import { close, duplicate } from "../sys/libc/files.ts";
import { effectiveUid, pidfdOpen } from "../sys/libc/processes.ts";
import { peerCredentials } from "../sys/libc/sockets.ts";
import { isAlive, type ProcessIdentity } from "../sys/process-identity.ts";
import { Channel } from "../sys/sockets/channel.ts";
import { connectMessages } from "../sys/sockets/listen.ts";
import { isFromWorker } from "../worker-protocol/from-worker.ts";
import type { FromWorker, ReportedLink, ToWorker } from "../worker-protocol/messages.ts";
import { linkFds } from "../worker-protocol/messages.ts";

/** A link as its worker reports it: duplicates of its descriptors in the order of LINK_FDS, then its lease's if any. */
export interface LinkReport {
  readonly description: ReportedLink;
  readonly fds: readonly number[];
}

export interface ReconnectedWorker {
  readonly pid: number;
  /** From pidfd_open(2). Belongs to the receiver. */
  readonly pidFd: number;
  readonly socketPath: string;
  /** The connection, for a WorkerProcess to go on with. */
  readonly channelFd: number;
  readonly links: readonly LinkReport[];
}

/** A worker that does not report within this time is inside a read, or hangs: `awaitWorker` tells which. */
const REPORT_TIMEOUT_MS = 1000;
const STEP_MS = 100;
/** The smallest page size there is. A file of this many pages fills as many larger ones. */
const PAGE_BYTES = 4096;

export interface ReattachResult {
  readonly reattached: readonly ReconnectedWorker[];
  /** Workers that are alive and do not answer. */
  readonly silent: readonly ProcessIdentity[];
}

/** The file name of a worker's socket. */
export const workerSocketName = ({ pid, startTime }: ProcessIdentity): string => `${pid}-${startTime}.sock`;

/** Connects to every worker. Sockets of dead workers are removed. */
export async function reattachWorkers(directory: string, journals: string): Promise<ReattachResult> {
  // "new-": the manager died before it could name the socket after the worker.
  const names = readdirSync(directory).filter((name) => /^new-|\.sock$/.test(name));
  // /proc shows paths without symbolic links.
  const real = realpathSync(journals);
  const all = await Promise.all(names.map((name) => reattach(join(directory, name), real)));
  const reattached = all.filter((one) => one !== undefined);
  const answered = new Set(reattached.map(({ socketPath }) => basename(socketPath)));
  const silent = names
    .filter((name) => !answered.has(name))
    .map(identityIn)
    .filter((one) => one !== undefined && holdsLinks(directory, one)) as ProcessIdentity[];
  return { reattached, silent };
}

/** Waits longer for one worker. Undefined when it does not report in time, has ended, or the signal aborts. */
export function awaitWorker(
  directory: string,
  journals: string,
  worker: ProcessIdentity,
  patienceMs: number,
  signal: AbortSignal,
): Promise<ReconnectedWorker | undefined> {
  return reattach(join(directory, workerSocketName(worker)), realpathSync(journals), patienceMs, signal);
}

/**
 * Whether a process has a worker's sockets. The socket that it listens on tells: a process that was killed is a zombie
 * by its first thread while another thread, stuck in the kernel, keeps them all.
 */
export function holdsLinks(directory: string, worker: ProcessIdentity): boolean {
  try {
    close(connectMessages(join(directory, workerSocketName(worker))));
    return true;
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.errno === ERRNO.ECONNREFUSED) return false;
    // Its socket has another name, or was removed; or there is no descriptor to ask with.
    return isAlive(worker);
  }
}

function identityIn(socketName: string): ProcessIdentity | undefined {
  const [, pid, startTime] = /^([1-9]\d*)-(\d+)\.sock$/.exec(socketName) ?? [];
  return pid === undefined || startTime === undefined ? undefined : { pid: Number(pid), startTime };
}

async function reattach(
  socketPath: string,
  journals: string,
  patienceMs = REPORT_TIMEOUT_MS,
  signal?: AbortSignal,
): Promise<ReconnectedWorker | undefined> {
  let fd: number;
  try {
    fd = connectMessages(socketPath);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    // Only if nothing listens. Other errors, such as a lack of descriptors, say nothing about the worker.
    if (error.errno === ERRNO.ECONNREFUSED) rmSync(socketPath, { force: true });
    return undefined;
  }
  // The peer's credentials are those of the process that made the socket: a former manager.
  if (peerCredentials(fd).uid !== effectiveUid()) {
    close(fd);
    return undefined;
  }
  // The channel below closes its descriptor; the connection goes on with this duplicate.
  const channelFd = duplicate(fd);
  const links: LinkReport[] = [];
  let greeting: { pidFd: number; pid: number; links: number } | undefined;
  const isComplete = await new Promise<boolean>((resolve) => {
    // Receives nothing more: a descriptor in a late message would stay open here and keep the link's socket alive.
    const finish = (complete: boolean): void => {
      clearTimeout(timer);
      channel.close();
      resolve(complete);
    };
    // In short steps: messages that arrived while this process did not run are handled before the next step.
    let timer: NodeJS.Timeout;
    const wait = (leftMs: number): void => {
      if (leftMs <= 0 || signal?.aborted === true) return finish(false);
      timer = setTimeout(() => wait(leftMs - STEP_MS), STEP_MS);
    };
    wait(patienceMs);
    const channel = new Channel<FromWorker, ToWorker>(fd, {
      message: (message, fds, senderPid) => {
        const link = isFromWorker(message) ? linkReport(message, fds, journals) : undefined;
        if (link !== undefined) links.push(link);
        else for (const one of fds) close(one);
        // This process will be sent signals, so the pid must be the one that the kernel reports for the sender.
        if (
          isFromWorker(message) &&
          message.type === "reunion" &&
          message.pid === senderPid &&
          greeting === undefined
        ) {
          const pidFd = pidfdOpen(message.pid);
          if (pidFd < 0) return finish(false);
          greeting = { pidFd, pid: message.pid, links: message.links };
        }
        if (greeting !== undefined && links.length >= greeting.links) finish(true);
      },
      end: () => finish(false),
    });
  });
  if (isComplete && greeting !== undefined)
    return { pid: greeting.pid, pidFd: greeting.pidFd, socketPath, channelFd, links };
  close(channelFd);
  if (greeting !== undefined) close(greeting.pidFd);
  for (const link of links) for (const one of link.fds) close(one);
  return undefined;
}

function linkReport(message: FromWorker, fds: readonly number[], journals: string): LinkReport | undefined {
  if (message.type !== "held" || fds.length !== linkFds(message) || !isJournal(fds[2] as number, journals))
    return undefined;
  const { type: _, ...description } = message;
  return { description, fds };
}

/**
 * The journal's file will be removed with root's rights, so it must be one of this run directory. It will be mapped as
 * well, and a mapping of a shorter file would crash this manager and every one after it. (A journal of a former
 * version ends a little earlier, within the last page.)
 */
function isJournal(fd: number, journals: string): boolean {
  const pages = (sizeBytes: number): number => Math.ceil(sizeBytes / PAGE_BYTES);
  return (
    dirname(readlinkSync(`/proc/self/fd/${fd}`)) === journals &&
    pages(fstatSync(fd).size) >= pages(JOURNAL_BYTES)
  );
}
