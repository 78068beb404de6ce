/**
 * Served links under the real pump and event loop: many requests, many links, a client that does not read, and
 * nothing left open afterwards.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Pump } from "../../../src/serving/pump.ts";
import { ServedLink } from "../../../src/serving/served-link.ts";
import type { Source } from "../../../src/source/source.ts";
import { SOCK_NONBLOCK, SOCK_STREAM, socketPair } from "../../../src/sys/libc/sockets.ts";
import type { LinkEnd } from "../../../src/worker-protocol/link-end.ts";
import { DeferredSource, openPatternFile, PatternSource, patternAt } from "../../helpers/images/sources.ts";
import { MiniNbdClient } from "../../helpers/nbd/mini-nbd-client.ts";
import { openDescriptors } from "../../helpers/sockets/descriptors.ts";
import { until } from "../../helpers/until.ts";

// Megabytes pass through here: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const MIB = 1 << 20;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-links-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let pump: Pump;
let links: ServedLink[];
let before: Map<number, string>;
beforeEach(() => {
  before = openDescriptors();
  pump = new Pump();
  links = [];
});
afterEach(async () => {
  for (const link of links) link.close();
  pump.close();
  // Node closes a client's socket a turn later.
  await until("nothing is left open", () => openDescriptors().size === before.size);
});

/** A link served by the pump, and a client at its other end. */
async function connect(source: Source): Promise<{ client: MiniNbdClient; ended: Promise<LinkEnd> }> {
  const [fd, peerFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  const ended = new Promise<LinkEnd>((resolve) => {
    // A promise settled inside the pump is drained with the event loop's next turn.
    links.push(new ServedLink(fd, pump, { source }, { end: (end) => setImmediate(() => resolve(end)) }));
  });
  return { client: await MiniNbdClient.open({ fd: peerFd }), ended };
}

describe("a served link", () => {
  test("answers hundreds of requests that are on the wire at once", async () => {
    const { client, ended } = await connect(new PatternSource(MIB));
    const ranges = Array.from(
      { length: 800 },
      (_, i) => [(i * 1009) % 900_000, 1 + ((i * 61) % 9000)] as const,
    );
    const got = await Promise.all(ranges.map(([at, length]) => client.read(at, length)));
    for (const [i, data] of got.entries())
      expect(data.equals(patternAt(ranges[i]?.[0] ?? 0, ranges[i]?.[1] ?? 0))).toBe(true);
    await client.disconnect();
    expect(await ended).toEqual({ kind: "disconnect" });
  });

  test("swallows a WRITE of 32 MiB, answers it once and goes on", async () => {
    const { client, ended } = await connect(new PatternSource(MIB));
    const payload = Buffer.alloc(32 * MIB, 0x25);
    expect(await client.request(1, 0, payload.length, { payload })).toMatchObject({ errno: 1 });
    expect(await client.read(10, 10)).toEqual(patternAt(10, 10));
    client.destroy();
    expect(await ended).toEqual({ kind: "end-of-file" });
  });

  test("is served from a file through its 32 MiB of data in one reply", async () => {
    const file = openPatternFile(join(directory, "large"), 32 * MIB);
    const { client } = await connect(file);
    const data = await client.read(0, 32 * MIB);
    expect(data.subarray(0, MIB).equals(patternAt(0, MIB))).toBe(true);
    expect(data.subarray(-MIB).equals(patternAt(31 * MIB, MIB))).toBe(true);
    client.destroy();
    file.close();
  });

  test("whose client does not read delays no other, and delivers everything later", async () => {
    const file = openPatternFile(join(directory, "slow"), 4 * MIB);
    const memory = new PatternSource(4 * MIB);
    const slow = [await connect(file), await connect(memory)];
    const quick = await connect(memory);
    for (const { client } of slow) client.pause();
    const asked = slow.map(({ client }) =>
      Array.from({ length: 100 }, (_, i) => client.read((i * 7919) % MIB, 256 * 1024)),
    );
    const readsBefore = memory.reads;
    for (let round = 0; round < 200; round += 1)
      expect((await quick.client.read(round, 4096)).equals(patternAt(round, 4096))).toBe(true);
    // Two hundred of these reads were the quick client's.
    expect(memory.reads - readsBefore).toBeLessThan(200 + 20);
    for (const { client } of slow) {
      expect(client.inFlight).toBeGreaterThan(0);
      client.resume();
    }
    for (const replies of asked)
      for (const [i, data] of (await Promise.all(replies)).entries())
        expect(data.equals(patternAt((i * 7919) % MIB, data.length))).toBe(true);
    for (const { client } of [...slow, quick]) client.destroy();
    await Promise.all([...slow, quick].map((link) => link.ended));
    file.close();
  });

  test("ends for its own client only", async () => {
    const source = new PatternSource(MIB);
    const all = await Promise.all(Array.from({ length: 20 }, () => connect(source)));
    const [bad, ...good] = all;
    bad?.client.sendRaw(Buffer.alloc(28, 0xff));
    expect(await bad?.ended).toMatchObject({ kind: "protocol-error" });
    for (const { client } of good) expect(await client.read(1, 10)).toEqual(patternAt(1, 10));
    for (const { client } of good) await client.disconnect();
    expect(await Promise.all(good.map((link) => link.ended))).toEqual(
      good.map(() => ({ kind: "disconnect" })),
    );
  });

  test("lets an asynchronous source answer although another link is busy all the time", async () => {
    const source = new DeferredSource(MIB);
    const later = await connect(source);
    const busy = await connect(new PatternSource(MIB));
    let stop = false;
    const traffic = (async () => {
      while (!stop) await Promise.all(Array.from({ length: 16 }, () => busy.client.read(0, 512)));
    })();
    const answers = Promise.all([3, 1, 2].map((at) => later.client.read(at, 100)));
    await until("the reads have begun", () => source.pending.length === 3);
    for (const pending of [...source.pending]) pending.fulfil();
    expect(await answers).toEqual([3, 1, 2].map((at) => patternAt(at, 100)));
    stop = true;
    await traffic;
    for (const { client } of [later, busy]) client.destroy();
  });
});
