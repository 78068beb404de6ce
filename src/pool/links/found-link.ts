/**
 * A link that a reattached worker reported. Adoption decides what becomes of it: open, leave or close.
 */
import { readlinkSync, rmSync } from "node:fs";
import type {
  LinkObserver,
  LinkRequest,
  OpenLink,
  FoundLink as ReportedLink,
} from "../../supervisor/ports.ts";
import { close } from "../../sys/libc/files.ts";
import type { LinkReport } from "../reattach.ts";
import type { WorkerProcess } from "../worker-process.ts";
import { HeldLink } from "./held-link.ts";

/** The caller calls exactly one of `open`, `leave` and `close`. */
export interface FoundLink extends ReportedLink {
  /** The device's identifier. */
  readonly device: string;
  readonly workerPid: number;
  /** Belongs to the device once the link is opened. */
  readonly imageFd: number;
  readonly journalPath: string;
  /** Closes the manager's descriptors, the image's included; the worker goes on serving the link. */
  leave(): void;
  /** Closes the same descriptors, removes the journal and has the worker close the link: no device uses it. */
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

/** `add` enters an opened link into the pool and returns the supervisor's view of it. */
export function foundLink(
  worker: WorkerProcess,
  { description, fds }: LinkReport,
  add: (link: HeldLink) => OpenLink,
): FoundLink {
  const { link: number, device, slot: linkIndex, copyOnly, confirmed = false } = description;
  const [serverFd, imageFd, journalFd, readFd, writeFd, kernelFd, leaseFd] = fds as LinkFds;
  const journalPath = readlinkSync(`/proc/self/fd/${journalFd}`);
  const closeAll = (): void => {
    for (const fd of fds) close(fd);
  };
  return {
    device,
    workerPid: worker.pid,
    linkIndex,
    copyOnly,
    imageFd,
    journalPath,
    open: (request: LinkRequest, observer: LinkObserver) => {
      const ends = { serverFd, kernelFd, journalFd, pipe: [readFd, writeFd] as const, leaseFd };
      // The worker sends as it was told when it got the link.
      const asServed = { ...request, counted: description.counted };
      let link: HeldLink;
      try {
        link = new HeldLink(number, asServed, observer, ends, journalPath, confirmed);
      } catch (error) {
        // Its worker serves on. The image's descriptor is the device's.
        for (const fd of fds) if (fd !== imageFd) close(fd);
        worker.links.leaveOne();
        throw error;
      }
      const how = worker.links.adopt(link) ? undefined : `worker ${worker.pid} ended while it had no manager`;
      if (how !== undefined) setImmediate(() => observer.orphaned(how, 0));
      return add(link);
    },
    leave: () => {
      closeAll();
      worker.links.leaveOne();
    },
    close: () => {
      closeAll();
      rmSync(journalPath, { force: true });
      worker.post({ type: "close", link: number });
    },
  };
}
