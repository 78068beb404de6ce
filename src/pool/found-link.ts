/**
 * A link of a former manager's worker, as the worker has told it: not ours yet, and perhaps nobody's.
 */
import { readlinkSync, rmSync } from "node:fs";
import type { FoundLink, LinkObserver, LinkRequest, OpenLink } from "../supervisor/ports.ts";
import { close } from "../sys/libc.ts";
import { HeldLink } from "./held-link.ts";
import type { ToldLink } from "./reattach.ts";
import type { WorkerProcess } from "./worker-process.ts";

/** Exactly one of `open`, `leave` and `close` is to be called. */
export interface PooledFoundLink extends FoundLink {
  /** The device's identifier. */
  readonly device: string;
  readonly workerPid: number;
  /** Belongs to whoever has the device, once the link is opened. */
  readonly imageFd: number;
  readonly journalPath: string;
  /** Closes our descriptors of it, the image's too; its worker serves it on. */
  leave(): void;
  /** The same, and the worker lets go of it: nobody uses it. Its journal is removed. */
  close(): void;
}

type LinkFds = [
  serverFd: number,
  imageFd: number,
  journalFd: number,
  readFd: number,
  writeFd: number,
  kernelFd: number,
  leaseFd?: number,
];

/** `own` makes a link one that its supervisor can use. */
export function describeFound(
  worker: WorkerProcess,
  { description, fds }: ToldLink,
  own: (link: HeldLink) => OpenLink,
): PooledFoundLink {
  const { link: number, device, slot, copyOnly } = description;
  const [serverFd, imageFd, journalFd, readFd, writeFd, kernelFd, leaseFd] = fds as LinkFds;
  const journalPath = readlinkSync(`/proc/self/fd/${journalFd}`);
  const closeOurs = (): void => {
    for (const fd of fds) close(fd);
  };
  return {
    device,
    workerPid: worker.pid,
    slot,
    copyOnly,
    imageFd,
    journalPath,
    open: (request: LinkRequest, observer: LinkObserver) => {
      const ends = { serverFd, kernelFd, journalFd, pipe: [readFd, writeFd] as const, leaseFd };
      const link = new HeldLink(number, request, observer, ends, journalPath);
      link.workerPid = worker.pid;
      link.confirmed = description.confirmed === true;
      if (worker.isAlive) worker.adopt(link);
      else
        setImmediate(() => observer.orphaned(`worker ${worker.pid} ended while nobody was its manager`, 0));
      return own(link);
    },
    leave: () => {
      closeOurs();
      worker.leaveLink();
    },
    close: () => {
      closeOurs();
      rmSync(journalPath, { force: true });
      worker.giveUp(number);
    },
  };
}
