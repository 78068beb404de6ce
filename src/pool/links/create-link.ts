/**
 * Creates a link: a socketpair, a journal file and a reply pipe, held by the pool until a worker gets them.
 */
import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { JOURNAL_BYTES } from "../../journal/layout.ts";
import type { LinkObserver, LinkRequest } from "../../supervisor/ports.ts";
import { acquire } from "../../sys/libc/descriptor-reserve.ts";
import { allocateFile, mapShared, unmapShared } from "../../sys/libc/memory.ts";
import { pipe } from "../../sys/libc/pipes.ts";
import { growSendBuffer, SOCK_NONBLOCK, SOCK_STREAM, socketPair } from "../../sys/libc/sockets.ts";
import { SEND_BUFFER_BYTES } from "../../worker-protocol/messages.ts";
import { HeldLink } from "./held-link.ts";
import type { JournalFile } from "./link-descriptors.ts";

/** Counts the journals of this process. A worker may still have the journal of an earlier link of the same device. */
let generation = 0;

/**
 * A link without a worker. Takes `used` over, the journal of a dead link, instead of making one.
 * @throws SystemError, or an error of the file system when the journal cannot be created; `used` stays open then
 */
export function createLink(
  number: number,
  request: LinkRequest,
  observer: LinkObserver,
  directory: string,
  used?: JournalFile,
): HeldLink {
  const open: number[] = [];
  let made: JournalFile | undefined;
  try {
    made = used === undefined ? createJournal(nextJournalPath(directory, request)) : undefined;
    const journal = used ?? (made as JournalFile);
    if (used !== undefined) clearJournal(used.fd);
    const ends = acquire(() => socketPair(SOCK_STREAM, SOCK_NONBLOCK));
    open.push(...ends);
    const reply = acquire(pipe);
    open.push(...reply);
    const [kernelFd, serverFd] = ends;
    growSendBuffer(serverFd, SEND_BUFFER_BYTES);
    const descriptors = { kernelFd, serverFd, journalFd: journal.fd, pipe: reply };
    return new HeldLink(number, request, observer, descriptors, journal.path);
  } catch (error) {
    for (const fd of open) closeSync(fd);
    if (made !== undefined) discardJournal(made);
    throw error;
  }
}

/** Closes and removes a journal that no link uses. */
export function discardJournal({ fd, path }: JournalFile): void {
  closeSync(fd);
  rmSync(path, { force: true });
}

function createJournal(path: string): JournalFile {
  const fd = acquire(() => openSync(path, "wx+", 0o600));
  try {
    allocateFile(fd, JOURNAL_BYTES);
    return { fd, path };
  } catch (error) {
    discardJournal({ fd, path });
    throw error;
  }
}

/** Makes a used journal as a fresh one is. Its pages are allocated already. */
function clearJournal(fd: number): void {
  const memory = mapShared(fd, JOURNAL_BYTES);
  new Uint8Array(memory).fill(0);
  unmapShared(memory);
}

function nextJournalPath(
  directory: string,
  { device, linkIndex }: Pick<LinkRequest, "device" | "linkIndex">,
): string {
  generation += 1;
  return join(directory, `${device}.${linkIndex}.${process.pid}-${generation}.journal`);
}
