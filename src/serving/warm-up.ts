/**
 * Serves a few hundred reads to itself, so that the code of a read has run before it is needed.
 *
 * A worker that takes over from a dead one is waited for: the first request through code that has never run costs
 * many times what the thousandth does. The loop's own code reads the program that runs it, over a socketpair. A worker
 * does this before it says that it is ready; one that an attach waits for does it afterwards, between other work.
 */
import { openSync } from "node:fs";
import { Journal } from "../journal/journal.ts";
import { JOURNAL_BYTES } from "../journal/layout.ts";
import { NBD_REQUEST_MAGIC, REQUEST_BYTES } from "../nbd/wire.ts";
import { identifyImage } from "../source/file-identity.ts";
import { FileSource } from "../source/file-source.ts";
import { EPOLLIN } from "../sys/epoll.ts";
import { close } from "../sys/libc/files.ts";
import { pipe } from "../sys/libc/pipes.ts";
import { MSG_DONTWAIT, recv, SOCK_NONBLOCK, SOCK_STREAM, send, socketPair } from "../sys/libc/sockets.ts";
import type { Pump } from "./pump.ts";
import { ServedLink } from "./served-link.ts";

/** The program that runs us, as an open file: the link leads to it past the directories on the way. */
const PROGRAM = "/proc/self/exe";
const ROUNDS = 40;
/** After an attach: the device has been probed and, mostly, mounted by then. */
const LATER_MS = 1000;
/** Small ones that gather in a batch, and one that goes through the pipe. */
const LENGTHS_BYTES = [4096, 4096, 4096, 4096, 64 * 1024];

/** Its pages leave by reference, as those of an image under a lease do, and nothing changes the program that runs. */
class RunningProgram extends FileSource {
  override get mayShare(): boolean {
    return true;
  }
}

/** All of it at once. */
export function warmUp(pump: Pump): void {
  const rehearsal = new Rehearsal(pump);
  for (let round = 0; round < ROUNDS; round += 1) rehearsal.play(round);
  rehearsal.close();
}

/** One round at a time, a while from now. Does not keep the process. */
export function warmUpLater(pump: Pump, delayMs: number = LATER_MS): void {
  setTimeout(() => {
    const rehearsal = new Rehearsal(pump);
    const playFrom = (round: number): void => {
      if (round === ROUNDS) return rehearsal.close();
      rehearsal.play(round);
      setImmediate(playFrom, round + 1).unref();
    };
    playFrom(0);
  }, delayMs).unref();
}

/** A link to the running program, and the client at its other end. */
class Rehearsal {
  readonly #link: ServedLink;
  readonly #source: RunningProgram;
  readonly #clientFd: number;
  readonly #replies = new Uint8Array(256 * 1024);

  constructor(pump: Pump) {
    // Not process.execPath: the directories above it may be closed to the account that we have become, as /root is.
    const imageFd = openSync(PROGRAM, "r");
    const [clientFd, serverFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
    const [readFd, writeFd] = pipe();
    this.#clientFd = clientFd;
    this.#source = new RunningProgram(imageFd, identifyImage(imageFd, PROGRAM), PROGRAM);
    const journal = new Journal(new ArrayBuffer(JOURNAL_BYTES));
    this.#link = new ServedLink(
      serverFd,
      pump,
      { source: this.#source, journal: { journal, pipe: { readFd, writeFd }, counted: true } },
      { end: () => {} },
    );
  }

  play(round: number): void {
    const requests = encodeReads(round);
    send(this.#clientFd, requests, requests.length, MSG_DONTWAIT);
    this.#link.onEvents(EPOLLIN);
    while (recv(this.#clientFd, this.#replies, this.#replies.length, MSG_DONTWAIT) > 0);
  }

  close(): void {
    this.#link.close();
    this.#source.close();
    close(this.#clientFd);
  }
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
