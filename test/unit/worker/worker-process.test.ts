/**
 * The worker as the manager uses it: a process of its own with a control socket, to which links are given while it
 * runs, and which may be killed, or left alone by its manager. Runs the built program.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { openImage } from "../../../src/source/open-image.ts";
import { Channel } from "../../../src/sys/channel.ts";
import { close, SOCK_NONBLOCK, SOCK_SEQPACKET, SOCK_STREAM, socketPair } from "../../../src/sys/libc.ts";
import type { FromWorker, ToWorker } from "../../../src/worker/worker-protocol.ts";
import { openDescriptors } from "../../helpers/descriptors.ts";
import { MiniNbdClient } from "../../helpers/mini-nbd-client.ts";
import { patternAt } from "../../helpers/sources.ts";
import { until } from "../../helpers/until.ts";

// A process has to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const MAIN = fileURLToPath(new URL("../../../dist/src/worker/main.js", import.meta.url));
const SIZE = 1 << 20;
const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-worker-"));
const image = join(directory, "image");
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
  child = spawn(process.execPath, [MAIN], { stdio: ["ignore", "ignore", "inherit", theirs] });
  close(theirs);
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

/** Gives the worker a link and returns a client at its other end. Keeps no descriptor of the worker's. */
async function give(link: number, blockSizeBytes = 512): Promise<MiniNbdClient> {
  const [fd, peerFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  const { fd: imageFd, spec } = openImage(image);
  await channel.send({ type: "serve", link, source: spec, blockSizeBytes, copyOnly: false }, [fd, imageFd]);
  close(fd);
  close(imageFd);
  return MiniNbdClient.open({ fd: peerFd });
}

/** The worker's sockets and image descriptors. */
const workerDescriptors = (): string[] =>
  readdirSync(`/proc/${child.pid}/fd`)
    .map((fd) => readlinkSync(`/proc/${child.pid}/fd/${fd}`))
    .filter((target) => target.startsWith("socket:") || target === image)
    .sort();

describe("a worker process", () => {
  test("takes links while it serves others, and reports what each has done", async () => {
    const first = await give(1);
    expect(await first.read(0, 4096)).toEqual(patternAt(0, 4096));
    const going = Promise.all(Array.from({ length: 200 }, (_, i) => first.read(i * 512, 512)));
    const second = await give(2, 4096);
    expect(await second.read(8192, 100_000)).toEqual(patternAt(8192, 100_000));
    for (const [i, data] of (await going).entries()) expect(data).toEqual(patternAt(i * 512, 512));
    await Promise.all([heard("serving", 1), heard("serving", 2), heard("first-request", 2)]);
    await channel.send({ type: "report", token: 77 });
    expect(await heard("report")).toEqual({
      type: "report",
      token: 77,
      links: [
        { link: 1, counters: { requests: 201, readBytes: 4096 + 200 * 512, readErrors: 0 } },
        { link: 2, counters: { requests: 1, readBytes: 100_000, readErrors: 0 } },
      ],
    });
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
        counters: { requests: link % 2 === 0 ? 2 : 1, readBytes: 10, readErrors: 0 },
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
    const { fd, spec } = openImage(image);
    await channel.send({ type: "serve", link: 3, source: spec, blockSizeBytes: 512, copyOnly: false }, [fd]);
    close(fd);
    expect(await heard("refused", 3)).toMatchObject({ message: expect.stringContaining("instead of 2") });
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
