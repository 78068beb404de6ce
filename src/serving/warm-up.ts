/**
 * Serving a few hundred reads to itself, before a worker says that it is ready.
 *
 * A worker that takes over from a dead one is waited for: the first request through code that has never run costs
 * many times what the thousandth does. The loop's own code reads the program that runs us, over a socketpair.
 */
import { openSync } from "node:fs";
import { JOURNAL_BYTES, Journal } from "../journal/journal.ts";
import { NBD_REQUEST_MAGIC, REQUEST_BYTES } from "../nbd/wire.ts";
import { identifyImage } from "../source/file-identity.ts";
import { FileSource } from "../source/file-source.ts";
import { EPOLLIN } from "../sys/epoll.ts";
import {
  close,
  MSG_DONTWAIT,
  pipe,
  recv,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  send,
  socketPair,
} from "../sys/libc.ts";
import type { Pump } from "./pump.ts";
import { ServedLink } from "./serve-loop.ts";

/** The program that runs us, as an open file: the link leads to it past the directories on the way. */
const PROGRAM = "/proc/self/exe";
const ROUNDS = 40;
/** Small ones that gather in a batch, and one that goes through the pipe. */
const LENGTHS_BYTES = [4096, 4096, 4096, 4096, 64 * 1024];

/** Its pages leave by reference, as those of an image under a lease do, and nothing changes the program that runs. */
class RunningProgram extends FileSource {
  override get mayShare(): boolean {
    return true;
  }
}

export function warmUp(pump: Pump): void {
  // Not process.execPath: the directories above it may be closed to the account that we have become, as /root is.
  const imageFd = openSync(PROGRAM, "r");
  const [ours, theirs] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  const [readFd, writeFd] = pipe();
  const source = new RunningProgram(imageFd, identifyImage(imageFd, PROGRAM), PROGRAM);
  const journal = new Journal(new ArrayBuffer(JOURNAL_BYTES));
  const link = new ServedLink(
    theirs,
    pump,
    { source, journal: { journal, pipe: { readFd, writeFd }, counted: true } },
    { end: () => {} },
  );
  const replies = new Uint8Array(256 * 1024);
  for (let round = 0; round < ROUNDS; round += 1) {
    const requests = encodeReads(round);
    send(ours, requests, requests.length, MSG_DONTWAIT);
    link.onEvents(EPOLLIN);
    while (recv(ours, replies, replies.length, MSG_DONTWAIT) > 0);
  }
  link.close();
  source.close();
  close(ours);
}

function encodeReads(round: number): Uint8Array {
  const requests = new Uint8Array(LENGTHS_BYTES.length * REQUEST_BYTES);
  const view = new DataView(requests.buffer);
  LENGTHS_BYTES.forEach((lengthBytes, index) => {
    const at = index * REQUEST_BYTES;
    view.setUint32(at, NBD_REQUEST_MAGIC);
    view.setUint32(at + 12, round);
    view.setUint32(at + 20, (round + index) * 4096);
    view.setUint32(at + 24, lengthBytes);
  });
  return requests;
}
