/**
 * The worker as the manager uses it: a process of its own with a control socket, to which links are given while it
 * runs, and which may be killed, or left alone by its manager. Runs the built program.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Journal } from "../../../src/journal/journal.ts";
import { JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import { type OpenImage, openImage } from "../../../src/source/open-image.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { allocateFile, mapShared, unmapShared } from "../../../src/sys/libc/memory.ts";
import { pipe } from "../../../src/sys/libc/pipes.ts";
import { SOCK_NONBLOCK, SOCK_SEQPACKET, SOCK_STREAM, socketPair } from "../../../src/sys/libc/sockets.ts";
import { Channel } from "../../../src/sys/sockets/channel.ts";
import { connectMessages, listenUnix } from "../../../src/sys/sockets/listen.ts";
import type { LinkCounters } from "../../../src/worker-protocol/link-end.ts";
import type { FromWorker, ServedLinkDescription, ToWorker } from "../../../src/worker-protocol/messages.ts";
import { patternAt } from "../../helpers/images/sources.ts";
import { MiniNbdClient } from "../../helpers/nbd/mini-nbd-client.ts";
import { asNobody, canBeNobody } from "../../helpers/processes/as-nobody.ts";
import { openDescriptors } from "../../helpers/sockets/descriptors.ts";
import { until } from "../../helpers/until.ts";

// A process has to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const MAIN = fileURLToPath(new URL("../../../dist/src/worker/main.js", import.meta.url));
const SIZE = 1 << 20;
/** Of a file that a program has left open for its children, as no worker should have it. */
const EXTRA_FD = 40;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-worker-"));
const image = join(directory, "image");
const reunion = join(directory, "reunion.sock");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let child: ChildProcess;
let channel: Channel<FromWorker, ToWorker>;
let told: FromWorker[];
let before: number;

beforeEach(async () => {
  before = openDescriptors().size;
  writeFileSync(image, patternAt(0, SIZE));
  told = [];
  const [ours, theirs] = socketPair(SOCK_SEQPACKET, SOCK_NONBLOCK);
  rmSync(reunion, { force: true });
  const listening = listenUnix(reunion, SOCK_SEQPACKET);
  const extra = openSync(image, "r");
  const gap = Array<"ignore">(EXTRA_FD - 5).fill("ignore");
  const stdio = ["ignore" as const, "ignore" as const, "inherit" as const, theirs, listening, ...gap, extra];
  child = spawn(process.execPath, [MAIN], { stdio });
  for (const fd of [theirs, listening, extra]) close(fd);
  channel = new Channel<FromWorker, ToWorker>(ours, {
    message: (message) => told.push(message),
    end: () => {},
  });
  await heard("ready");
});
afterEach(async () => {
  channel.close();
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
  await until("nothing is left open", () => openDescriptors().size === before);
});

/** The first message of a type, and of a link, that has come or comes. */
async function heard<T extends FromWorker["type"]>(
  type: T,
  link?: number,
): Promise<Extract<FromWorker, { type: T }>> {
  const find = (): FromWorker | undefined =>
    told.find(
      (message) =>
        message.type === type && (link === undefined || ("link" in message && message.link === link)),
    );
  await until(`the worker says ${type}`, () => find() !== undefined);
  return find() as Extract<FromWorker, { type: T }>;
}

const journalPath = (link: number): string => join(directory, `${link}.journal`);

function describeLink(link: number, { spec }: OpenImage, blockSizeBytes = 512): ServedLinkDescription {
  return {
    link,
    device: "a device",
    slot: 0,
    source: spec,
    blockSizeBytes,
    copyOnly: false,
    counted: true,
    confirmed: false,
  };
}

/** The descriptors of a fresh link and its other end; all but the latter are to be closed by the caller. */
function makeLink(link: number): { fds: number[]; opened: OpenImage; peerFd: number } {
  const [fd, peerFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  const opened = openImage(image);
  const journalFd = openSync(journalPath(link), "w+");
  allocateFile(journalFd, JOURNAL_BYTES);
  const [kernelFd, other] = socketPair(SOCK_STREAM);
  close(other);
  return { fds: [fd, opened.fd, journalFd, ...pipe(), kernelFd], opened, peerFd };
}

/** Gives the worker a link and returns a client at its other end. Keeps no descriptor of the worker's. */
async function give(link: number, blockSizeBytes = 512): Promise<MiniNbdClient> {
  const { fds, opened, peerFd } = makeLink(link);
  await channel.send({ type: "serve", ...describeLink(link, opened, blockSizeBytes) }, fds);
  for (const fd of fds) close(fd);
  return MiniNbdClient.open({ fd: peerFd });
}

/** What a link's journal says. */
function countersOf(link: number): LinkCounters {
  const fd = openSync(journalPath(link), "r+");
  const memory = mapShared(fd, JOURNAL_BYTES);
  closeSync(fd);
  const { requests, readBytes, readErrors } = new Journal(memory);
  unmapShared(memory);
  return { requests, readBytes, readErrors };
}

/** The worker's sockets, pipes, and descriptors of image and journals. */
const workerDescriptors = (): string[] =>
  readdirSync(`/proc/${child.pid}/fd`)
    .map((fd) => readlinkSync(`/proc/${child.pid}/fd/${fd}`))
    .filter((target) => /^(socket|pipe):/.test(target) || target.startsWith(directory))
    .sort();

/** Its listening TCP sockets, as lines of proc_net_tcp(5). */
function tcpListeners(): string[] {
  const LISTEN = "0A";
  const owned = new Set(workerDescriptors());
  return ["tcp", "tcp6"]
    .flatMap((name) => readFileSync(`/proc/${child.pid}/net/${name}`, "utf8").split("\n"))
    .filter((line) => {
      const [, , , state, , , , , , inode] = line.trim().split(/\s+/);
      return state === LISTEN && owned.has(`socket:[${inode}]`);
    });
}

describe("a worker process", () => {
  test("takes links while it serves others, and journals what each has done", async () => {
    const first = await give(1);
    expect(await first.read(0, 4096)).toEqual(patternAt(0, 4096));
    const going = Promise.all(Array.from({ length: 200 }, (_, i) => first.read(i * 512, 512)));
    const second = await give(2, 4096);
    expect(await second.read(8192, 100_000)).toEqual(patternAt(8192, 100_000));
    for (const [i, data] of (await going).entries()) expect(data).toEqual(patternAt(i * 512, 512));
    await Promise.all([heard("serving", 1), heard("serving", 2), heard("first-request", 2)]);
    await until("the last reply is marked as answered", () => countersOf(1).requests === 201);
    expect(countersOf(1)).toEqual({ requests: 201, readBytes: 4096 + 200 * 512, readErrors: 0 });
    await until("the large reply is marked as answered", () => countersOf(2).requests === 1);
    expect(countersOf(2)).toEqual({ requests: 1, readBytes: 100_000, readErrors: 0 });
    first.destroy();
    second.destroy();
  });

  test("reports how each link ended, and keeps none of its descriptors", async () => {
    const idle = workerDescriptors();
    for (let link = 1; link <= 20; link += 1) {
      const client = await give(link);
      expect(await client.read(link, 10)).toEqual(patternAt(link, 10));
      if (link % 2 === 0) await client.disconnect();
      else client.destroy();
      expect(await heard("ended", link)).toEqual({
        type: "ended",
        link,
        end: { kind: link % 2 === 0 ? "disconnect" : "end-of-file" },
        counters: { requests: 1, readBytes: 10, readErrors: 0 },
      });
    }
    expect(workerDescriptors()).toEqual(idle);
  });

  test("gives a link up when it is told to", async () => {
    const client = await give(1);
    await client.read(0, 1);
    await channel.send({ type: "close", link: 1 });
    await client.closed;
    expect(await heard("ended", 1)).toMatchObject({ end: { kind: "closed" } });
    await channel.send({ type: "close", link: 1 });
    expect(await (await give(2)).read(0, 1)).toEqual(patternAt(0, 1));
  });

  test("refuses a link that comes without its descriptors, and closes what came", async () => {
    const idle = workerDescriptors();
    const opened = openImage(image);
    await channel.send({ type: "serve", ...describeLink(3, opened) }, [opened.fd]);
    close(opened.fd);
    expect(await heard("refused", 3)).toMatchObject({ message: expect.stringContaining("instead of 6") });
    expect(workerDescriptors()).toEqual(idle);
  });

  test("pads its image to blocks", async () => {
    truncateSync(image, SIZE - 100);
    const client = await give(1, 4096);
    const data = await client.read(SIZE - 4096, 4096);
    expect(data).toEqual(Buffer.concat([patternAt(SIZE - 4096, 3996), Buffer.alloc(100)]));
    client.destroy();
  });

  test("tells of reads that failed, the first at once and the rest in one line", async () => {
    const client = await give(1);
    await client.read(0, 512);
    truncateSync(image, 4096);
    for (let i = 0; i < 5; i += 1) expect(await client.request(0, 0, 512)).toMatchObject({ errno: 5 });
    expect(await heard("read-error", 1)).toMatchObject({
      count: 1,
      message: expect.stringContaining("truncated"),
    });
    await client.disconnect();
    expect(await heard("ended", 1)).toMatchObject({ counters: { readErrors: 5 } });
    expect(told.filter((message) => message.type === "read-error").map((message) => message.count)).toEqual([
      1, 4,
    ]);
  });

  test("keeps serving an image whose path now leads to another file", async () => {
    const client = await give(1);
    rmSync(image);
    writeFileSync(image, Buffer.alloc(SIZE, 0xee));
    expect(await client.read(5000, 5000)).toEqual(patternAt(5000, 5000));
    client.destroy();
  });

  test("goes on when its manager is gone, and leaves with its last link", async () => {
    const clients = [await give(1), await give(2)];
    channel.close();
    for (const client of clients) expect(await client.read(7, 7)).toEqual(patternAt(7, 7));
    const exit = once(child, "exit");
    await clients[0]?.disconnect();
    expect(await clients[1]?.read(8, 8)).toEqual(patternAt(8, 8));
    await clients[1]?.disconnect();
    expect(await exit).toEqual([0, null]);
  });

  test("leaves at once when its manager goes and it has no link", async () => {
    const exit = once(child, "exit");
    channel.close();
    expect(await exit).toEqual([0, null]);
  });

  test("that is told to stop finishes its links first", async () => {
    const client = await give(1);
    await channel.send({ type: "stop" });
    expect(await client.read(7, 7)).toEqual(patternAt(7, 7));
    const exit = once(child, "exit");
    await client.disconnect();
    expect(await exit).toEqual([0, null]);
  });

  test("lets go of a link that lives on: what comes then waits for the next worker", async () => {
    const { fds, opened, peerFd } = makeLink(1);
    await channel.send({ type: "serve", ...describeLink(1, opened) }, fds);
    const client = await MiniNbdClient.open({ fd: peerFd });
    await client.read(0, 4096);
    const idle = workerDescriptors();
    await channel.send({ type: "release", link: 1 });
    await heard("released", 1);
    await until("its descriptors are closed", () => workerDescriptors().length === idle.length - fds.length);
    const waiting = client.read(5, 5000);
    await channel.send({ type: "serve", ...describeLink(1, opened) }, fds);
    expect(await waiting).toEqual(patternAt(5, 5000));
    for (const fd of fds) close(fd);
    await until("both are in the same journal", () => countersOf(1).requests === 2);
    await client.disconnect();
    await heard("ended", 1);
    expect(told.filter(({ type }) => type === "ended")).toHaveLength(1);
  });

  test("answers pings", async () => {
    await channel.send({ type: "ping" });
    await heard("pong");
  });

  test("keeps no file that its program had left open for its children", async () => {
    expect(workerDescriptors().filter((target) => target.startsWith(directory))).toEqual([]);
  });

  test("opens no inspector when it is sent SIGUSR1, and serves on", async () => {
    const client = await give(1);
    for (let round = 1; round <= 20; round += 1) {
      child.kill("SIGUSR1");
      await channel.send({ type: "ping" });
      await until("it answers", () => told.filter(({ type }) => type === "pong").length === round);
      expect(tcpListeners()).toEqual([]);
    }
    // An inspector is opened by a thread of its own, and might only be late.
    const ignored = /^SigIgn:\s*(\w+)$/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1];
    expect(BigInt(`0x${ignored}`) & (1n << BigInt(constants.signals.SIGUSR1 - 1))).not.toBe(0n);
    expect(await client.read(7, 7)).toEqual(patternAt(7, 7));
    client.destroy();
  });

  test("tells the manager after this one every link, with its descriptors, and obeys that one", async () => {
    const clients = [await give(1), await give(2, 4096)];
    for (const client of clients) await client.read(7, 7);
    const met: FromWorker[] = [];
    const got: number[] = [];
    const next = new Channel<FromWorker, ToWorker>(connectMessages(reunion), {
      message: (message, fds) => {
        met.push(message);
        got.push(...fds);
      },
      end: () => {},
    });
    await until("all is told", () => met.at(-1)?.type === "ready");
    expect(met).toEqual([
      { type: "reunion", pid: child.pid, links: 2 },
      expect.objectContaining({
        type: "held",
        link: 1,
        blockSizeBytes: 512,
        device: "a device",
        counted: true,
      }),
      expect.objectContaining({ type: "held", link: 2, blockSizeBytes: 4096 }),
      { type: "ready", leases: true },
    ]);
    expect(got).toHaveLength(12);
    for (const fd of got) close(fd);
    for (const client of clients) expect(await client.read(8, 8)).toEqual(patternAt(8, 8));
    await next.send({ type: "close", link: 1 });
    await clients[0]?.closed;
    expect(await clients[1]?.read(9, 9)).toEqual(patternAt(9, 9));
    await clients[1]?.disconnect();
    await until("its end is told to the new one", () => met.at(-1)?.type === "ended");
    const exit = once(child, "exit");
    next.close();
    expect(await exit).toEqual([0, null]);
  });

  test.runIf(canBeNobody)(
    "that another user connects to, another worker's too, keeps its manager",
    async () => {
      const client = await give(1);
      chmodSync(directory, 0o755);
      chmodSync(reunion, 0o666);
      const said: unknown[] = [];
      let isCut = false;
      const fd = asNobody(() => connectMessages(reunion));
      const stranger = new Channel<FromWorker, ToWorker>(fd, {
        message: (message, fds) => {
          said.push(message);
          for (const one of fds) close(one);
        },
        end: () => {
          isCut = true;
        },
      });
      await until("it is cut off", () => isCut);
      stranger.close();
      expect(said).toEqual([]);
      await channel.send({ type: "ping" });
      await heard("pong");
      expect(await client.read(8, 8)).toEqual(patternAt(8, 8));
      await client.disconnect();
    },
  );

  test("that is killed leaves its clients with an end of file, and a request without a made-up reply", async () => {
    const client = await give(1);
    await client.read(0, 1);
    child.kill("SIGSTOP");
    const unanswered = expect(client.read(0, 4096)).rejects.toThrow(/closed|ended|ECONNRESET/);
    const exit = once(child, "exit");
    child.kill("SIGKILL");
    expect(await exit).toEqual([null, "SIGKILL"]);
    await unanswered;
    await client.closed;
  });
});
