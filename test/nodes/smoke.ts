/**
 * What must work on every Node.js and processor, in one process: the command line, `serve` with every byte compared,
 * and the system calls whose structures differ between processors. Its assertions need no test runner.
 *
 * node-suite.ts compiles it and runs it with the Node.js in question: smoke.js CLI NODE [ARGUMENT…], where CLI is the
 * built erofs-nbd and NODE… what starts that Node.js. It writes one line of JSON for each check.
 */
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { openImage } from "../../src/source/open-image.ts";
import { EPOLLHUP, EPOLLIN, EPOLLOUT, Epoll } from "../../src/sys/epoll.ts";
import { check } from "../../src/sys/libc/bind.ts";
import { close } from "../../src/sys/libc/files.ts";
import { allocateFile, mapShared, unmapShared } from "../../src/sys/libc/memory.ts";
import { pipe, spliceFromFile, spliceToSocket } from "../../src/sys/libc/pipes.ts";
import {
  peerCredentials,
  SOCK_NONBLOCK,
  SOCK_SEQPACKET,
  SOCK_STREAM,
  send,
  socketPair,
  unreadBytes,
} from "../../src/sys/libc/sockets.ts";
import { Channel } from "../../src/sys/sockets/channel.ts";
import { MiniNbdClient } from "../helpers/nbd/mini-nbd-client.ts";

const [cli = "", node = "", ...nodeArgs] = process.argv.slice(2);
const run = promisify(execFile);
const directory = mkdtempSync(join(tmpdir(), "smoke-"));
const content = randomBytes(3 * 1024 * 1024 + 4096);
const image = join(directory, "image");
writeFileSync(image, content);

const CHECKS: Readonly<Record<string, () => unknown>> = {
  "--version is that of package.json": async () => {
    match((await erofsNbd("--version")).stdout, /^\d+\.\d+\.\d+\n$/);
  },
  "--help names the commands": async () => {
    match((await erofsNbd("--help")).stdout, /attach.*mount.*serve/s);
  },
  "an unknown option ends with 1 and a hint": async () => {
    const error = await erofsNbd("--jsno").catch((reason: unknown) => reason);
    const { code, stderr } = error as { code: number; stderr: string };
    equal(code, 1);
    match(stderr, /^erofs-nbd: .*--jsno/);
  },
  "serve: every byte over a unix socket": () => serveAndCompare(),
  "SCM_RIGHTS: a descriptor arrives with its message": () => passDescriptor(),
  "epoll: events carry their token": () => pollTokens(),
  "SO_PEERCRED: this process": () => {
    const [a, b] = socketPair(SOCK_STREAM);
    deepEqual(peerCredentials(a), {
      pid: process.pid,
      uid: process.getuid?.() ?? -1,
      gid: process.getgid?.() ?? -1,
    });
    for (const fd of [a, b]) close(fd);
  },
  "statx: identity and size as fstat has them": () => {
    const opened = openImage(image);
    const stat = fstatSync(opened.fd, { bigint: true });
    const { identity } = opened.spec;
    equal(identity.sizeBytes, content.length);
    equal(identity.inode, `${stat.ino}`);
    equal(identity.mtimeNs, `${stat.mtimeNs}`);
    close(opened.fd);
  },
  "splice: pages of a file through a pipe into a socket": () => spliceAndCompare(),
  "mmap: memory shared between two mappings of a file": () => {
    const fd = openSync(join(directory, "shared"), "w+");
    allocateFile(fd, 8192);
    const [first, second] = [mapShared(fd, 8192), mapShared(fd, 8192)];
    new Int32Array(first)[1025] = 0x6543_2109;
    equal(new Int32Array(second)[1025], 0x6543_2109);
    for (const memory of [first, second]) unmapShared(memory);
    closeSync(fd);
  },
};

for (const [name, work] of Object.entries(CHECKS)) {
  let problem: string | undefined;
  try {
    await work();
  } catch (error) {
    problem = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  process.stdout.write(`${JSON.stringify({ name, problem: problem ?? null })}\n`);
}
rmSync(directory, { recursive: true });

function erofsNbd(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  return run(node, [...nodeArgs, cli, ...args]);
}

async function serveAndCompare(): Promise<void> {
  const path = join(directory, "serve.sock");
  const server = spawn(node, [...nodeArgs, cli, "serve", "--socket", path, image], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const exit = once(server, "exit");
  let said = "";
  server.stderr.setEncoding("utf8");
  for await (const text of server.stderr) {
    said += text;
    if (/^serving .*$/m.test(said)) break;
  }
  match(said, /^serving /m);
  const client = await MiniNbdClient.open({ path });
  equal(client.sizeBytes, content.length);
  // Small reads are answered from memory, large ones by reference to pages.
  for (const lengthBytes of [4096, 128 * 1024, 1024 * 1024]) {
    const offsets = Array.from(
      { length: Math.ceil(content.length / lengthBytes) },
      (_, at) => at * lengthBytes,
    );
    await Promise.all(
      offsets.map(async (offsetBytes) => {
        const wanted = content.subarray(offsetBytes, offsetBytes + lengthBytes);
        ok(wanted.equals(await client.read(offsetBytes, wanted.length)), `${lengthBytes} at ${offsetBytes}`);
      }),
    );
  }
  await client.disconnect();
  server.kill("SIGINT");
  deepEqual(await exit, [0, null]);
}

async function passDescriptor(): Promise<void> {
  const [left, right] = socketPair(SOCK_SEQPACKET, SOCK_NONBLOCK);
  const file = openSync(image, "r");
  const ends: Channel<{ n: number }, { n: number }>[] = [];
  const arrived = await new Promise<{ n: number; fds: readonly number[] }>((resolve, reject) => {
    const end = (error: Error | null): void => reject(error ?? new Error("the channel ended"));
    ends.push(new Channel(right, { message: ({ n }, fds) => resolve({ n, fds }), end }));
    const sender = new Channel<{ n: number }, { n: number }>(left, { message: () => {}, end });
    ends.push(sender);
    sender.send({ n: 7 }, [file, 1]).catch(reject);
  });
  equal(arrived.n, 7);
  equal(arrived.fds.length, 2);
  const [copy = -1] = arrived.fds;
  ok(copy !== file);
  const bytes = Buffer.alloc(4096);
  readSync(copy, bytes, 0, bytes.length, 8192);
  ok(bytes.equals(content.subarray(8192, 8192 + 4096)));
  for (const fd of [...arrived.fds, file]) close(fd);
  for (const end of ends) end.close();
}

function pollTokens(): void {
  const epoll = new Epoll();
  const pairs = Array.from({ length: 5 }, () => socketPair(SOCK_STREAM, SOCK_NONBLOCK));
  for (const [token, [near]] of pairs.entries()) epoll.add(near, EPOLLIN, 1000 + token);
  const told = (): Map<number, number> => {
    const count = epoll.wait(1000);
    return new Map(Array.from({ length: count }, (_, at) => [epoll.tokenAt(at), epoll.eventsAt(at)]));
  };
  const [, one, , three] = pairs;
  const byte = Buffer.from("x");
  for (const far of [one?.[1] ?? -1, three?.[1] ?? -1]) equal(send(far, byte, 1, 0), 1);
  const both = new Map([1001, 1003].map((token) => [token, EPOLLIN]));
  deepEqual(told(), both);
  epoll.modify(one?.[0] ?? -1, EPOLLOUT, 2001);
  epoll.remove(three?.[0] ?? -1);
  deepEqual(told(), new Map([[2001, EPOLLOUT]]));
  epoll.modify(one?.[0] ?? -1, 0, 2001);
  close(one?.[1] ?? -1);
  deepEqual(told(), new Map([[2001, EPOLLHUP]]));
  epoll.close();
  for (const [near, far] of pairs) for (const fd of far === one?.[1] ? [near] : [near, far]) close(fd);
}

function spliceAndCompare(): void {
  const lengthBytes = 16_384;
  const file = openSync(image, "r");
  const [readEnd, writeEnd] = pipe();
  const [near, far] = socketPair(SOCK_STREAM);
  const received = Buffer.alloc(lengthBytes);
  const compare = (offsetBytes: number): void => {
    equal(unreadBytes(far), lengthBytes);
    equal(readSync(far, received), lengthBytes);
    ok(received.equals(content.subarray(offsetBytes, offsetBytes + lengthBytes)), `at ${offsetBytes}`);
  };
  equal(check("splice", spliceFromFile(file, 4096, writeEnd, lengthBytes)), lengthBytes);
  equal(check("splice", spliceToSocket(readEnd, near, lengthBytes)), lengthBytes);
  compare(4096);
  equal(check("splice", spliceFromFile(file, 12_288, writeEnd, lengthBytes)), lengthBytes);
  equal(check("splice", spliceToSocket(readEnd, near, lengthBytes)), lengthBytes);
  compare(12_288);
  for (const fd of [file, readEnd, writeEnd, near, far]) close(fd);
}
