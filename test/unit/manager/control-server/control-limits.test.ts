/**
 * What peers of the control socket may take from the manager: connections, memory, time, descriptors. All peers run as
 * root or as the manager's user, but none may keep the others from being served.
 */
import { closeSync, openSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { toAttachParams } from "../../../../src/library/options.ts";
import { MSG_NOSIGNAL, SOCK_STREAM, sendmsg } from "../../../../src/sys/libc/sockets.ts";
import { MessageHeader } from "../../../../src/sys/sockets/message-header.ts";
import { connectUnix } from "../../../helpers/sockets/connect-unix.ts";
import { openDescriptors } from "../../../helpers/sockets/descriptors.ts";
import { until } from "../../../helpers/until.ts";
import { RawPeer } from "./raw-peer.ts";
import { connect, HELLO, logged, manager, path, peers, server, useControlServer } from "./server-rig.ts";

vi.setConfig({ testTimeout: 60_000 });

const MIB = 1 << 20;

useControlServer();

async function expectServed(peer: RawPeer): Promise<void> {
  const count = peer.answers.length;
  peer.send(HELLO);
  await peer.answer(count + 1);
  expect(peer.answers.at(-1)).toMatchObject({ id: 1, result: { pid: process.pid } });
}

describe("limits", () => {
  test("1,000 idle connections: those above the limit are cut off, using little memory", async () => {
    const first = await connect();
    await expectServed(first);
    global.gc?.();
    const before = process.memoryUsage().rss;
    for (let count = 0; count < 1000; count += 1) await connect();
    await until(
      "the cut of those above the limit",
      () => peers.filter(({ ended }) => ended).length === 1001 - 256,
    );
    expect(server.connectionCount).toBe(256);
    await expectServed(first);
    // Both ends of them are in this process.
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * MIB);
  });

  test("a line of 100 MB is cut off at its first MB, and uses no memory", async () => {
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

  test("unfinished lines of all peers are limited together: the peer that exceeds the limit is cut off", async () => {
    const other = await connect();
    const begun: RawPeer[] = [];
    for (let count = 0; count < 20; count += 1) {
      const peer = await connect();
      begun.push(peer);
      peer.send("x".repeat(MIB - 1));
    }
    await until("some are cut", () => begun.filter(({ ended }) => ended).length >= 12);
    expect(logged.some((line) => line.includes("unfinished lines of all peers fill too much memory"))).toBe(
      true,
    );
    await expectServed(other);
  });

  test("unread answers of all peers are limited together; a peer that reads is not cut off", async () => {
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
    expect(logged).toContain("Cut a control connection: unread answers of all peers fill too much memory");
    await expectServed(other);
  });

  test("slow peers without a first request or with an unfinished line are cut off; idle ones stay", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const [idle, silent, slow] = [await connect(), await connect(), await connect()];
    await until("all are connected", () => server.connectionCount === 3);
    idle.send(HELLO);
    slow.send(HELLO);
    slow.send('{"id":');
    await until("both are answered", () => idle.answers.length === 1 && slow.answers.length === 1);
    vi.advanceTimersByTime(9999);
    slow.send("1");
    await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(1);
    await until("both are cut off", () => silent.ended && slow.ended);
    vi.advanceTimersByTime(3_600_000);
    expect(idle.ended).toBe(false);
    idle.send(HELLO);
    await until("it is answered again", () => idle.answers.length === 2);
  });

  test("a peer that sends faster than it is answered is read from later, and gets all its answers", async () => {
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
    // Only what one read returned.
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

  test("a peer that has closed its sending half still gets its answers", async () => {
    const peer = await connect();
    peer.socket.end(HELLO);
    await peer.end();
    expect(peer.answers).toMatchObject([{ id: 1, result: { pid: process.pid } }]);
  });
});

describe("descriptors", () => {
  const ATTACH = `${JSON.stringify({ id: 7, method: "attach", params: toAttachParams("/a.erofs", {}) })}\n`;
  const closing: number[] = [];
  let before: Map<number, string>;
  let fd: number;
  let peer: RawPeer;

  beforeEach(async () => {
    before = openDescriptors();
    fd = connectUnix(path, SOCK_STREAM);
    peer = RawPeer.over(fd);
    peers.push(peer);
    await until("the connection", () => server.connectionCount === 1);
  });
  afterEach(async () => {
    peer.close();
    for (const file of closing.splice(0)) closeSync(file);
    await until("only what was open before", () => {
      const now = openDescriptors();
      return now.size === before.size && [...before].every(([one, target]) => now.get(one) === target);
    });
  });

  /** Sends text of which the first byte carries duplicates of these descriptors. */
  function sendWith(text: string, ...fds: number[]): void {
    const body = Buffer.from(text);
    const header = new MessageHeader(fds.length, false);
    expect(sendmsg(fd, header.toSend(body, fds), MSG_NOSIGNAL)).toBe(body.length);
  }

  function openFile(): number {
    const file = openSync(path.replace("control.sock", "image"), "w+");
    closing.push(file);
    return file;
  }

  test("one is passed to the attach that it came with, however the request is split", async () => {
    const file = openFile();
    sendWith(ATTACH.slice(0, 1), file);
    for (const piece of [ATTACH.slice(1, 40), ATTACH.slice(40)]) {
      await nextTurn();
      peer.send(piece);
    }
    await peer.answer(1);
    // The end of a request and the beginning of the next may be received together.
    peer.send(HELLO.slice(0, -2));
    sendWith(`${HELLO.slice(-2)}${ATTACH}`, file);
    await peer.answer(3);
    expect(peer.answers.map(({ id }) => id)).toEqual([7, 1, 7]);
    const image = path.replace("control.sock", "image");
    expect(manager.handed).toEqual([image, image]);
    expect(peer.ended).toBe(false);
  });

  test("one with a refused attach is closed, and the connection goes on", async () => {
    const file = openFile();
    sendWith(ATTACH.replace('"connections":1', '"connections":0'), file);
    await peer.answer(1);
    expect(peer.answers[0]).toMatchObject({ id: 7, error: { code: "ERR_BAD_ARGUMENT" } });
    await expectServed(peer);
    expect(manager.handed).toEqual([]);
  });

  const refused: ReadonlyArray<[what: string, send: (file: number) => void]> = [
    ["two with one request", (file) => sendWith(ATTACH, file, file)],
    ["two with one request, of a kind that no request takes", () => sendWith(ATTACH, fd, 0)],
    ["a hundred with one request", (file) => sendWith(ATTACH, ...Array<number>(100).fill(file))],
    ["one with a request that takes none", (file) => sendWith(HELLO, file)],
    ["one with an invalid request", (file) => sendWith("}\n", file)],
    [
      "one after the other with one request",
      (file) => {
        sendWith(ATTACH.slice(0, 5), file);
        sendWith(ATTACH.slice(5), file);
      },
    ],
  ];
  test.each(refused)("%s: closed, answered with an error, and cut off", async (_, send) => {
    send(openFile());
    await peer.end();
    expect(peer.answers.at(-1)).toMatchObject({ error: { code: "ERR_BAD_ARGUMENT" } });
    expect(manager.handed).toEqual([]);
  });

  test("one with an unfinished request is closed with the connection, and so is one after its end", async () => {
    sendWith(ATTACH.slice(0, 20), openFile());
    await until("it has come", () => openDescriptors().size > before.size + 4);
    peer.close();
    await until("the end", () => server.connectionCount === 0);
  });

  test("many, one with each request, are not open at the same time", async () => {
    const file = openFile();
    for (let count = 1; count <= 300; count += 1) {
      sendWith(ATTACH, file);
      await peer.answer(count);
    }
    expect(manager.handed).toHaveLength(300);
    expect(openDescriptors().size).toBeLessThan(before.size + 10);
  });
});
