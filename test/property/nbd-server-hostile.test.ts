/**
 * An NBD server of the build as a process, and clients that send anything: it lives, serves others on, and takes no
 * more memory than it may. Bytes go over a real socket, in any pieces.
 */
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { patternAt } from "../helpers/images/sources.ts";
import { MiniNbdClient, requestHeader } from "../helpers/nbd/mini-nbd-client.ts";
import { type ServeProcess, startServe } from "../helpers/nbd/serve-process.ts";
import { until } from "../helpers/until.ts";

vi.setConfig({ testTimeout: 60_000 });

const SIZE = 4 << 20;
const MIB = 1 << 20;
const OPTION = Buffer.from("IHAVEOPT");
/** Well before the time for the handshake is over, which cuts everybody. */
const CUT_MS = 10_000;
let directory: string;
let path: string;
let server: ServeProcess;
/** A client that was there before all the others. */
let neighbour: MiniNbdClient;
/** Sockets of the server while there is the neighbour alone. */
let usual: number;
const sockets = new Set<Socket>();

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-hostile-"));
  path = join(directory, "s");
  writeFileSync(join(directory, "image"), patternAt(0, SIZE));
  server = await startServe("--socket", path, "--max-connections", "40", join(directory, "image"));
  neighbour = await MiniNbdClient.open({ path });
  usual = openSockets();
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  expect((await neighbour.read(4000, 5000)).equals(patternAt(4000, 5000))).toBe(true);
  await until("the others' sockets are closed", () => openSockets() === usual);
});
afterAll(async () => {
  neighbour.destroy();
  const { code, stderr } = await server.stop();
  rmSync(directory, { recursive: true });
  expect(stderr).not.toMatch(/ {4}at |TypeError|RangeError|FATAL/);
  expect(code).toBe(0);
});

const openSockets = (): number =>
  readdirSync(`/proc/${server.pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${server.pid}/fd/${fd}`).startsWith("socket:");
    } catch {
      // Closed meanwhile.
      return false;
    }
  }).length;

function memoryBytes(): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))?.[1]) * 1024;
}

/**
 * A client that sends bytes in pieces and then goes, half or whole; resolves when the server has cut it or taken all.
 */
async function attack(pieces: readonly Uint8Array[], reads = true): Promise<void> {
  const socket = connect(path);
  sockets.add(socket);
  if (!reads) socket.pause();
  else socket.resume();
  socket.on("error", () => {});
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  for (const piece of pieces)
    await Promise.race([new Promise<unknown>((resolve) => socket.write(piece, resolve)), closed]);
  socket.end();
  if (reads) await closed;
  else socket.destroy();
  sockets.delete(socket);
}

/**
 * A client that sends bytes and stays; resolves with what it was told when the server has cut it. Nothing else ends it.
 */
async function outstay(pieces: readonly Uint8Array[], reads = true): Promise<{ toldBytes: number }> {
  const socket = connect(path);
  sockets.add(socket);
  let toldBytes = 0;
  let isCut = false;
  if (reads)
    socket.on("data", (data) => {
      toldBytes += data.length;
    });
  else socket.pause();
  socket.on("error", () => {});
  socket.once("close", () => {
    isCut = true;
  });
  for (const piece of pieces) socket.write(piece);
  await until("the server has cut it", () => isCut, CUT_MS);
  sockets.delete(socket);
  return { toldBytes };
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

const FLAGS = u32(3);
const option = (type: number, data: Uint8Array, length = data.length): Buffer =>
  Buffer.concat([OPTION, u32(type), u32(length), data]);
const ENTER = Buffer.concat([FLAGS, option(1, Buffer.alloc(0))]);

const bytes = fc.uint8Array({ maxLength: 2000 });
const options = fc
  .record({
    type: fc.oneof(fc.integer({ min: 0, max: 12 }), fc.integer({ min: 0, max: 0xffff_ffff })),
    data: fc.uint8Array({ maxLength: 300 }),
    length: fc.option(fc.integer({ min: 0, max: 0xffff_ffff }), { freq: 4, nil: undefined }),
    magic: fc.boolean(),
  })
  .map(({ type, data, length, magic }) => {
    const sent = option(type, data, length);
    if (!magic && data.length % 5 === 0) sent[0] = 0;
    return sent;
  });
const u64 = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  fc.constantFrom(0n, BigInt(SIZE), BigInt(SIZE) - 1n, (1n << 63n) - 1n, 1n << 63n, (1n << 64n) - 1n),
);
const u32s = fc.oneof(
  fc.integer({ min: 0, max: 70_000 }),
  fc.constantFrom(0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 32 * MIB, 32 * MIB + 1),
);
const requests = fc
  .record({
    type: fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 0xffff })),
    flags: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff })),
    offset: u64,
    length: u32s,
    magic: fc.integer({ min: 0, max: 20 }),
  })
  .map(({ type, flags, offset, length, magic }) => {
    const header = requestHeader(type, flags, 1n, offset, length);
    if (magic === 0) header[0] = 0;
    return header;
  });

/** The same bytes in pieces that end anywhere. */
function cut(stream: Uint8Array, at: readonly number[]): Uint8Array[] {
  const ends = [...at.map((one) => one % (stream.length + 1)), stream.length].sort((a, b) => a - b);
  return ends.map((end, index) => stream.subarray(index === 0 ? 0 : ends[index - 1], end));
}
const cuts = fc.array(fc.nat(), { maxLength: 5 });

describe("the server outlives, and its other client does not notice,", () => {
  test("any bytes", async () => {
    await fc.assert(
      fc.asyncProperty(bytes, cuts, async (stream, at) => attack(cut(stream, at))),
      { numRuns: 60 },
    );
  });

  test("any options, of any length, with any lie about it", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(options, { maxLength: 8 }), cuts, async (list, at) =>
        attack(cut(Buffer.concat([FLAGS, ...list]), at)),
      ),
      { numRuns: 100 },
    );
  });

  test("any requests, cut anywhere, and bytes that are none after them", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(requests, { maxLength: 20 }), bytes, cuts, async (list, noise, at) =>
        attack(cut(Buffer.concat([ENTER, ...list, noise]), at)),
      ),
      { numRuns: 150 },
    );
  });

  test("a flood of options: cut off after a bounded number of them", async () => {
    const flood = Array.from({ length: 100_000 }, () => option(3, Buffer.alloc(0)));
    const pieces = [FLAGS, ...cut(Buffer.concat(flood), [1 << 16, 1 << 20])];
    // A greeting, then each time the export and an end of the list: two replies of 20 bytes, a name's length of 4.
    const { toldBytes } = await outstay(pieces);
    expect(toldBytes).toBeLessThanOrEqual(18 + 100 * 44);
    await outstay(pieces, false);
  });

  test("clients that ask for much and read nothing: bounded memory, and they hold up nobody", async () => {
    const before = memoryBytes();
    const lazy = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const client = await MiniNbdClient.open({ path });
        client.pause();
        for (let count = 0; count < 500; count += 1)
          client.request(0, 0, count % 2 === 0 ? 4 * MIB : 4096).catch(() => {});
        return client;
      }),
    );
    for (let turn = 0; turn < 20; turn += 1)
      expect((await neighbour.read(turn, 100_000)).equals(patternAt(turn, 100_000))).toBe(true);
    // 20 clients want 20 GB.
    expect(memoryBytes() - before).toBeLessThan(150 * MIB);
    for (const client of lazy) client.destroy();
  });

  test("writes of 4 GiB that are announced and never come", async () => {
    await outstay([ENTER, requestHeader(1, 0, 1n, 0n, 0xffff_ffff), Buffer.alloc(100_000)]);
    await outstay([ENTER, requestHeader(1, 0, 1n, 0n, 32 * MIB + 1)]);
    await attack([ENTER, requestHeader(1, 0, 1n, 0n, MIB), Buffer.alloc(1000)]);
  });

  test("clients beyond the limit are refused, and accepted again when others have left", async () => {
    const open = await Promise.all(Array.from({ length: 39 }, () => MiniNbdClient.open({ path })));
    await expect(MiniNbdClient.open({ path })).rejects.toThrow();
    expect(openSockets()).toBe(usual + 39);
    for (const client of open) client.destroy();
    await until("room", async () => {
      const next = await MiniNbdClient.open({ path }).catch(() => undefined);
      next?.destroy();
      return next !== undefined;
    });
  });
});
