/**
 * The loop behind a listening socket: handshakes, names, many clients, hostile ones, and an end that leaves nothing.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { NbdServer } from "../../../src/serving/nbd-server.ts";
import { listenTcp, listenUnix } from "../../../src/sys/sockets/listen.ts";
import type { LinkEnd } from "../../../src/worker-protocol/link-end.ts";
import { PatternSource, patternAt } from "../../helpers/images/sources.ts";
import { MiniNbdClient, requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";
import { openDescriptors } from "../../helpers/sockets/descriptors.ts";
import { freePort } from "../../helpers/sockets/free-port.ts";
import { until } from "../../helpers/until.ts";

// Megabytes pass through here: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const SIZE = 1 << 20;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-server-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let server: NbdServer | undefined;
let path: string;
let log: string[];
let ends: LinkEnd[];
let before: number;
let sockets = 0;

beforeEach(() => {
  before = openDescriptors().size;
  path = join(directory, `${sockets++}.sock`);
  log = [];
  ends = [];
});
afterEach(async () => {
  server?.close();
  server = undefined;
  vi.useRealTimers();
  await until("nothing is left open", () => openDescriptors().size === before);
});

function serve(fd: number, name = ""): void {
  server = new NbdServer(fd, new PatternSource(SIZE), name, {
    log: (level, message) => log.push(`${level}: ${message}`),
    linkEnded: (end) => ends.push(end),
  });
}

function rawConnection(): Promise<{ socket: Socket; received: () => Buffer; closed: Promise<void> }> {
  const socket = connect(path);
  const chunks: Buffer[] = [];
  socket.on("data", (chunk) => chunks.push(chunk));
  socket.on("error", () => {});
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  return new Promise((resolve) =>
    socket.once("connect", () => resolve({ socket, received: () => Buffer.concat(chunks), closed })),
  );
}

describe("a server", () => {
  test.each(["go", "export-name"] as const)("takes a client by %s and reports its end", async (option) => {
    serve(listenUnix(path), "disk");
    const client = await MiniNbdClient.open({ path }, { exportName: "disk", option });
    expect([client.sizeBytes, client.transmissionFlags]).toEqual([SIZE, 0x103]);
    expect(await client.read(1000, 5000)).toEqual(patternAt(1000, 5000));
    await client.disconnect();
    await until("the end is reported", () => ends.length === 1);
    expect(ends).toEqual([{ kind: "disconnect" }]);
  });

  test("refuses another export's name and stays there for the next client", async () => {
    serve(listenUnix(path), "disk");
    await expect(MiniNbdClient.open({ path }, { exportName: "tape" })).rejects.toThrow(
      /answered GO with 0x8000000/,
    );
    const client = await MiniNbdClient.open({ path }, { exportName: "disk" });
    expect(await client.read(0, 10)).toEqual(patternAt(0, 10));
    client.destroy();
  });

  test.each(["127.0.0.1", "::1"])("serves over TCP at %s", async (host) => {
    const port = await freePort(host);
    serve(await listenTcp(host, port));
    const clients = await Promise.all([1, 2, 3].map(() => MiniNbdClient.open({ host, port })));
    const reads = await Promise.all(clients.map((client, i) => client.read(i * 100_000, 100_000)));
    for (const [i, data] of reads.entries()) expect(data.equals(patternAt(i * 100_000, 100_000))).toBe(true);
    for (const client of clients) await client.disconnect();
  });

  test("answers requests that come in the same packet as the handshake's last option", async () => {
    serve(listenUnix(path));
    const { socket, received, closed } = await rawConnection();
    const exportName = Buffer.concat([Buffer.from("IHAVEOPT"), Buffer.from([0, 0, 0, 1, 0, 0, 0, 0])]);
    const requests = Array.from({ length: 100 }, (_, i) => requestHeader(0, 0, BigInt(i), BigInt(i), 16));
    socket.write(
      Buffer.concat([Buffer.from([0, 0, 0, 3]), exportName, ...requests, requestHeader(2, 0, 0n, 0n, 0)]),
    );
    await closed;
    const stream = received();
    expect(stream.length).toBe(18 + 10 + 100 * 32);
    for (let i = 0; i < 100; i += 1) {
      const at = 28 + i * 32;
      expect(stream.readBigUInt64BE(at + 8)).toBe(BigInt(i));
      expect(stream.subarray(at + 16, at + 32)).toEqual(patternAt(i, 16));
    }
  });

  test("understands a handshake that comes byte by byte", async () => {
    serve(listenUnix(path));
    const { socket, received, closed } = await rawConnection();
    socket.setNoDelay(true);
    const bytes = Buffer.concat([
      Buffer.from([0, 0, 0, 3]),
      Buffer.from("IHAVEOPT"),
      Buffer.from([0, 0, 0, 1, 0, 0, 0, 0]),
      requestHeader(0, 0, 1n, 0n, 4),
      requestHeader(2, 0, 0n, 0n, 0),
    ]);
    for (const byte of bytes) await new Promise((resolve) => socket.write(Buffer.of(byte), resolve));
    await closed;
    expect(received().subarray(-4)).toEqual(patternAt(0, 4));
  });

  test.each([
    ["noise", Buffer.alloc(1000, 0xff)],
    ["an HTTP request", Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n")],
    [
      "an option of 4 GiB",
      Buffer.concat([
        Buffer.from([0, 0, 0, 3]),
        Buffer.from("IHAVEOPT"),
        Buffer.from([0, 0, 0, 7, 255, 255, 255, 255]),
      ]),
    ],
  ])("drops a client that sends %s, and keeps the others", async (_, bytes) => {
    serve(listenUnix(path));
    const other = await MiniNbdClient.open({ path });
    const { socket, closed } = await rawConnection();
    socket.write(bytes);
    await closed;
    expect(log.some((line) => line.includes("handshake ended"))).toBe(true);
    expect(await other.read(5, 5)).toEqual(patternAt(5, 5));
    other.destroy();
  });

  test("cuts off a client that does not finish its handshake within the deadline", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    serve(listenUnix(path));
    const { received, closed } = await rawConnection();
    await until("the greeting has come", () => received().length === 18);
    vi.advanceTimersByTime(29_999);
    expect(log).toEqual([]);
    vi.advanceTimersByTime(1);
    await closed;
    expect(log).toEqual([expect.stringContaining("it took longer than 30 s")]);
  });

  test("accepts 64 clients at a time, refuses the next, and accepts one again when one has left", async () => {
    serve(listenUnix(path));
    const clients = await Promise.all(Array.from({ length: 64 }, () => MiniNbdClient.open({ path })));
    await expect(MiniNbdClient.open({ path })).rejects.toThrow();
    expect(log).toEqual([expect.stringContaining("64 are open")]);
    const reads = await Promise.all(clients.map((client, i) => client.read(i, 100)));
    for (const [i, data] of reads.entries()) expect(data).toEqual(patternAt(i, 100));
    await clients[0]?.disconnect();
    await until("its end is reported", () => ends.length === 1);
    const next = await MiniNbdClient.open({ path });
    expect(await next.read(1, 1)).toEqual(patternAt(1, 1));
    for (const client of [...clients, next]) client.destroy();
  });

  test("cuts every client off when it closes, also during a handshake", async () => {
    serve(listenUnix(path));
    const client = await MiniNbdClient.open({ path });
    const raw = await rawConnection();
    await until("the greeting has come", () => raw.received().length === 18);
    server?.close();
    server = undefined;
    await Promise.all([client.closed, raw.closed]);
    expect(ends).toEqual([{ kind: "closed" }]);
    expect(existsSync(path)).toBe(true); // the path is its owner's
    await expect(MiniNbdClient.open({ path })).rejects.toThrow(/ECONNREFUSED/);
  });
});
