/**
 * Creates a link: a socketpair, a journal file and a reply pipe, held by the pool until a worker gets them.
 */
import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { JOURNAL_BYTES } from "../../journal/layout.ts";
import type { LinkObserver, LinkRequest } from "../../supervisor/ports.ts";
import { allocateFile } from "../../sys/libc/memory.ts";
import { pipe } from "../../sys/libc/pipes.ts";
import { growSendBuffer, SOCK_NONBLOCK, SOCK_STREAM, socketPair } from "../../sys/libc/sockets.ts";
import { SEND_BUFFER_BYTES } from "../../worker-protocol/messages.ts";
import { HeldLink } from "./held-link.ts";

/** Counts the journals of this process. A worker may still have the journal of an earlier link of the same device. */
let generation = 0;

/** A link without a worker. @throws SystemError, or an error of the file system when the journal cannot be created */
export function createLink(
  number: number,
  request: LinkRequest,
  observer: LinkObserver,
  directory: string,
): HeldLink {
  const path = nextJournalPath(directory, request);
  const open: number[] = [];
  try {
    const journalFd = openSync(path, "wx+", 0o600);
    open.push(journalFd);
    allocateFile(journalFd, JOURNAL_BYTES);
    const ends = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
    open.push(...ends);
    const reply = pipe();
    open.push(...reply);
    const [kernelFd, serverFd] = ends;
    growSendBuffer(serverFd, SEND_BUFFER_BYTES);
    return new HeldLink(number, request, observer, { kernelFd, serverFd, journalFd, pipe: reply }, path);
  } catch (error) {
    for (const fd of open) closeSync(fd);
    rmSync(path, { force: true });
    throw error;
  }
}

function nextJournalPath(
  directory: string,
  { device, linkIndex }: Pick<LinkRequest, "device" | "linkIndex">,
): string {
  generation += 1;
  return join(directory, `${device}.${linkIndex}.${process.pid}-${generation}.journal`);
}
