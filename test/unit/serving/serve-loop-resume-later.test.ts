/**
 * A reply of a source that answers later was cut inside it, by a handover or a death: its successor reads the rest
 * again before anything else may leave.
 */
import { afterEach, describe, expect, test } from "vitest";
import { Journal } from "../../../src/journal/journal.ts";
import { JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import { settle } from "../../../src/journal/recovery.ts";
import { Pump } from "../../../src/serving/pump.ts";
import { ServedLink } from "../../../src/serving/served-link.ts";
import { SourceError } from "../../../src/source/source.ts";
import { EPOLLIN, EPOLLOUT } from "../../../src/sys/epoll.ts";
import { close, duplicate } from "../../../src/sys/libc/files.ts";
import { pipe } from "../../../src/sys/libc/pipes.ts";
import {
  MSG_DONTWAIT,
  recv,
  SO_SNDBUF,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  send,
  setSocketOption,
  socketPair,
  unreadBytes,
} from "../../../src/sys/libc/sockets.ts";
import type { LinkEnd } from "../../../src/worker-protocol/link-end.ts";
import { DeferredSource, patternAt } from "../../helpers/images/sources.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";
import { until } from "../../helpers/until.ts";

/** More than a pipe and a small socket hold together. */
const LENGTH = 8 << 20;
const [serverFd, peerFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
const replies = pipe();
const memory = new ArrayBuffer(JOURNAL_BYTES);
const ends: LinkEnd[] = [];
const source = new DeferredSource(LENGTH);
const pumps: Pump[] = [];
const chunks: Buffer[] = [];
const piece = new Uint8Array(1 << 20);
afterEach(() => {
  for (const pump of pumps) pump.close();
  for (const fd of [serverFd, peerFd, ...replies]) close(fd);
});

function link(): ServedLink {
  const pump = new Pump();
  pumps.push(pump);
  const [readFd, writeFd] = [duplicate(replies[0]), duplicate(replies[1])];
  const journal = { journal: new Journal(memory), pipe: { readFd, writeFd }, counted: false };
  return new ServedLink(duplicate(serverFd), pump, { source, journal }, { end: (end) => ends.push(end) });
}

function hear(): void {
  for (let got = 1; got > 0; ) {
    got = recv(peerFd, piece, piece.length, MSG_DONTWAIT);
    if (got > 0) chunks.push(Buffer.from(piece.subarray(0, got)));
  }
}

async function settled(): Promise<void> {
  const witness = { counted: false, pipeBytes: () => unreadBytes(replies[0]), sample: () => undefined };
  expect(await settle(new Journal(memory), witness, 1000)).toMatchObject({ safe: true });
}

describe("a reply cut inside", () => {
  test("is continued byte for byte, later requests wait, and a rest that cannot be read ends the link", async () => {
    const first = link();
    setSocketOption(serverFd, SOL_SOCKET, SO_SNDBUF, 4096);
    send(peerFd, requestHeader(0, 0, 1n, 0n, LENGTH), 28, 0);
    first.onEvents(EPOLLIN);
    source.pending[0]?.fulfil();
    await until("a part of the reply is on its way", () => new Journal(memory).batch.phase === "filled");
    hear();
    first.onEvents(EPOLLOUT);
    first.release();
    await settled();

    const second = link();
    send(peerFd, requestHeader(0, 0, 2n, 0n, 512), 28, 0);
    second.resume();
    second.onEvents(EPOLLIN);
    expect(source.pending.map(({ lengthBytes }) => lengthBytes)).toEqual([LENGTH]);
    source.pending[0]?.fulfil();
    const heard = (): number => chunks.reduce((sum, { length }) => sum + length, 0);
    await until("the whole reply has come", () => {
      hear();
      second.onEvents(EPOLLOUT | EPOLLIN);
      return heard() >= 16 + LENGTH;
    });
    await until("the request that waited is asked for", () => {
      hear();
      second.onEvents(EPOLLOUT | EPOLLIN);
      return source.pending.length === 1;
    });
    const stream = Buffer.concat(chunks);
    expect(stream.length).toBe(16 + LENGTH);
    expect(stream.subarray(16).equals(patternAt(0, LENGTH))).toBe(true);
    source.pending[0]?.fulfil();
    await until("its answer has come", () => {
      hear();
      return heard() === 16 + LENGTH + 16 + 512;
    });

    send(peerFd, requestHeader(0, 0, 3n, 0n, LENGTH), 28, 0);
    second.onEvents(EPOLLIN);
    source.pending[0]?.fulfil();
    await until("a part of the third is on its way", () => new Journal(memory).batch.phase === "filled");
    second.release();
    await settled();
    const third = link();
    third.resume();
    expect(ends).toEqual([]);
    source.pending[0]?.fail(new SourceError("cannot read: the test says so"));
    await until("the link has ended", () => ends.length === 1);
    expect(ends).toEqual([{ kind: "source-error", message: "cannot read: the test says so" }]);
  });
});
