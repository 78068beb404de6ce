/**
 * What peers of the control socket may take from the manager: connections, memory, time, descriptors. All of them are
 * root's (or our own user's), and none may take the manager from the others.
 */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { ControlServer } from "../../../src/manager/control-server.ts";
import { Channel } from "../../../src/sys/channel.ts";
import { SOCK_STREAM } from "../../../src/sys/libc.ts";
import { connectUnix } from "../../helpers/connect-unix.ts";
import { until } from "../supervisor/waiting.ts";
import { FakeManager } from "./fake-manager.ts";
import { RawPeer } from "./raw-peer.ts";

vi.setConfig({ testTimeout: 60_000 });

const MIB = 1 << 20;
let directory: string;
let path: string;
let manager: FakeManager;
let server: ControlServer;
let logged: string[];
const peers: RawPeer[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-limits-"));
  path = join(directory, "control.sock");
  manager = new FakeManager();
  logged = [];
  const log = (message: string): number => logged.push(message);
  server = new ControlServer(path, manager, { info: log, warn: log, error: log });
});
afterEach(async () => {
  vi.useRealTimers();
  for (const peer of peers.splice(0)) peer.close();
  await until("all connections gone", () => server.connectionCount === 0);
  server.close();
  rmSync(directory, { recursive: true });
});

async function connect(): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  peers.push(peer);
  return peer;
}

const HELLO = `${JSON.stringify({ id: 1, method: "hello", params: {} })}\n`;

async function expectServed(peer: RawPeer): Promise<void> {
  const count = peer.answers.length;
  peer.send(HELLO);
  await peer.answer(count + 1);
  expect(peer.answers.at(-1)).toMatchObject({ id: 1, result: { pid: process.pid } });
}

describe("limits", () => {
  test("1,000 idle connections: those beyond the bound are cut, the first is served, little memory is held", async () => {
    const first = await connect();
    await expectServed(first);
    global.gc?.();
    const before = process.memoryUsage().rss;
    for (let count = 0; count < 1000; count += 1) await connect();
    await until("the cut of those too many", () => peers.filter(({ ended }) => ended).length === 1001 - 256);
    expect(server.connectionCount).toBe(256);
    await expectServed(first);
    // Both ends of them are in this process.
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * MIB);
  });

  test("a line of 100 MB is cut off at its first, and holds no memory", async () => {
    const other = await connect();
    const peer = await connect();
    const piece = "x".repeat(MIB);
    const before = process.memoryUsage().arrayBuffers;
    let most = 0;
    for (let sent = 0; sent < 100 && !peer.ended; sent += 1) {
      await new Promise((resolve) => peer.socket.write(piece, resolve));
      most = Math.max(most, process.memoryUsage().arrayBuffers - before);
    }
    await peer.end();
    expect(most).toBeLessThan(20 * MIB);
    await expectServed(other);
  });

  test("lines that many have begun are bounded together: who makes it too much is cut off", async () => {
    const other = await connect();
    const begun: RawPeer[] = [];
    for (let count = 0; count < 20; count += 1) {
      const peer = await connect();
      begun.push(peer);
      peer.send("x".repeat(MIB - 1));
    }
    await until("some are cut", () => begun.filter(({ ended }) => ended).length >= 12);
    expect(logged.some((line) => line.includes("the lines that peers have begun fill too much memory"))).toBe(
      true,
    );
    await expectServed(other);
  });

  test("answers that many do not read are bounded together; who reads is not cut", async () => {
    manager.statusAnswer = Array(2000).fill({ device: "/dev/nbd0", identifier: "x".repeat(1000) });
    const other = await connect();
    const lazy: RawPeer[] = [];
    const status = `${JSON.stringify({ id: 2, method: "status", params: { target: null } })}\n`;
    for (let count = 0; count < 12; count += 1) {
      const peer = await connect();
      peer.socket.pause();
      lazy.push(peer);
      peer.send(status.repeat(7));
    }
    await until("some are cut", () => server.connectionCount < 13);
    expect(logged).toContain("Cut a control connection: what peers have not read fills too much memory");
    await expectServed(other);
  });

  test("slow peers: a first request that never comes, and one that never ends, are cut; an idle one stays", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const [idle, silent, slow] = [await connect(), await connect(), await connect()];
    await vi.waitFor(() => expect(server.connectionCount).toBe(3));
    idle.send(HELLO);
    slow.send(HELLO);
    slow.send('{"id":');
    await vi.waitFor(() => expect([idle.answers.length, slow.answers.length]).toEqual([1, 1]));
    vi.advanceTimersByTime(9999);
    slow.send("1");
    await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(1);
    await vi.waitFor(() => expect([silent.ended, slow.ended]).toEqual([true, true]));
    vi.advanceTimersByTime(3_600_000);
    expect(idle.ended).toBe(false);
    idle.send(HELLO);
    await vi.waitFor(() => expect(idle.answers.length).toBe(2));
  });

  test("a peer that asks faster than it is answered is not read from, and gets all its answers in the end", async () => {
    let waiting: Array<() => void> = [];
    manager.before = () => new Promise<void>((resolve) => waiting.push(resolve));
    const peer = await connect();
    const count = 20_000;
    const padding = "x".repeat(200);
    let sent = 0;
    for (let id = 1; id <= count; id += 1) {
      peer.socket.write(
        `${JSON.stringify({ id, method: "status", params: { target: { path: `/${padding}` } } })}\n`,
        () => {
          sent += 1;
        },
      );
    }
    await until("the first run", () => waiting.length >= 64);
    for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    // What one read brought in, no more.
    expect(waiting.length).toBeLessThan(1000);
    expect(sent).toBeLessThan(count);
    manager.before = () => {};
    while (peer.answers.length < count) {
      const due = waiting;
      waiting = [];
      for (const go of due) go();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(new Set(peer.answers.map(({ id }) => id)).size).toBe(count);
  });

  test("descriptors that a peer sends along are not taken", async () => {
    const fd = connectUnix(path, SOCK_STREAM);
    const before = readdirSync("/proc/self/fd").length;
    const channel = new Channel<unknown, unknown>(fd, { message: () => {}, end: () => {} });
    for (let count = 0; count < 20; count += 1) await channel.send({ id: 1 }, [0, 0, 0, 0, 0, 0, 0, 0]);
    await until("it is told that this is no request", () => server.connectionCount === 0);
    channel.close();
    await until("its end is gone", () => readdirSync("/proc/self/fd").length <= before);
  });

  test("a peer that has closed its sending half still gets its answers", async () => {
    const peer = await connect();
    peer.socket.end(HELLO);
    await peer.end();
    expect(peer.answers).toMatchObject([{ id: 1, result: { pid: process.pid } }]);
  });
});
