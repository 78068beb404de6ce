/** worker-pool.ts with real worker processes (of the build), real sockets and a client that shares no code with them. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { identifyProcess, isAlive } from "../../../src/manager/records.ts";
import { type PoolOptions, WorkerPool } from "../../../src/manager/worker-pool.ts";
import { type OpenImage, openImage } from "../../../src/source/open-image.ts";
import type { LinkObserver, LinkRequest, OpenLink } from "../../../src/supervisor/ports.ts";
import { close } from "../../../src/sys/libc.ts";
import type { LinkEnd } from "../../../src/worker/link-end.ts";
import { MiniNbdClient } from "../../helpers/mini-nbd-client.ts";
import { noSocketsSince } from "../supervisor/bench.ts";
import { openSockets, until } from "../supervisor/waiting.ts";

const WORKER_PATH = fileURLToPath(new URL("../../../dist/src/worker/main.js", import.meta.url));
const NEVER = new AbortController().signal;
const baseline = openSockets();

let directory: string;
let image: OpenImage;
const content = Uint8Array.from({ length: 10_000 }, (_, at) => at % 251);
const pools: WorkerPool[] = [];

beforeAll(() => {
  if (!existsSync(WORKER_PATH)) throw new Error(`${WORKER_PATH} is missing: build first (npm run build)`);
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-pool-"));
  writeFileSync(join(directory, "image"), content);
  image = openImage(join(directory, "image"));
});

afterEach(async () => {
  vi.useRealTimers();
  for (const pool of pools.splice(0)) {
    const workers = pool.pids.map(identifyProcess).filter((found) => found !== undefined);
    pool.stop();
    for (const worker of workers) if (isAlive(worker)) process.kill(worker.pid, "SIGKILL");
    await until("the workers' end", () => !workers.some(isAlive));
  }
});

afterAll(async () => {
  close(image.fd);
  rmSync(directory, { recursive: true });
  await noSocketsSince(baseline);
});

interface Observed extends LinkObserver {
  readonly heard: string[];
  readonly ends: Array<LinkEnd | undefined>;
}

function observer(): Observed {
  const heard: string[] = [];
  const ends: Array<LinkEnd | undefined> = [];
  return {
    heard,
    ends,
    firstRequest: () => heard.push("first request"),
    readErrors: (message, count) => heard.push(`${count} × ${message}`),
    ended: (cause, end) => {
      heard.push(`ended: ${cause}`);
      ends.push(end);
    },
  };
}

function startPool(options: Partial<PoolOptions> = {}): { pool: WorkerPool; log: string[] } {
  const log: string[] = [];
  const pool = new WorkerPool(
    { size: 2, stderr: "ignore", workerPath: WORKER_PATH, ...options },
    { log: (level, message) => log.push(`${level}: ${message}`) },
  );
  pools.push(pool);
  pool.fill();
  return { pool, log };
}

function request(): LinkRequest {
  const { spec, fd } = image;
  return { image: { spec, fd, blockSizeBytes: 4096 }, copyOnly: false, spread: true };
}

async function readOver(link: OpenLink): Promise<MiniNbdClient> {
  const client = await MiniNbdClient.open({ fd: link.kernelFd });
  expect(await client.read(4096, 1000)).toEqual(Buffer.from(content.subarray(4096, 5096)));
  return client;
}

describe("links", () => {
  test("two workers; links are spread over them, serve, count, and end once with words", async () => {
    const { pool, log } = startPool();
    expect(pool.pids).toHaveLength(2);
    expect(log).toEqual(pool.pids.map((pid) => `info: Started worker ${pid}`));
    const observers = [observer(), observer(), observer(), observer()];
    const links: OpenLink[] = [];
    for (const one of observers) links.push(await pool.openLink(request(), one, NEVER));
    expect(links.map(({ workerPid }) => workerPid).sort()).toEqual([...pool.pids, ...pool.pids].sort());
    expect(new Set(links.map(({ number }) => number)).size).toBe(4);

    const clients = await Promise.all(links.map(readOver));
    await until("first requests", () => observers.every(({ heard }) => heard[0] === "first request"));
    await pool.refreshCounters();
    expect(links.map(({ counters }) => counters)).toEqual(
      Array(4).fill({ requests: 1, readBytes: 1000, readErrors: 0 }),
    );

    await clients[0]?.disconnect();
    clients[1]?.destroy();
    links[2]?.close();
    links[2]?.close();
    await until("three ends", () => observers.slice(0, 3).every(({ ends }) => ends.length === 1));
    expect(observers.map(({ ends }) => ends)).toEqual([
      [{ kind: "disconnect" }],
      [{ kind: "end-of-file" }],
      [{ kind: "closed" }],
      [],
    ]);
    expect(observers[2]?.heard.at(-1)).toBe(
      `ended: worker ${links[2]?.workerPid} ended the link: it was given up`,
    );
    await clients[2]?.closed;
    await clients[3]?.disconnect();
    await until("the last end", () => observers[3]?.ends.length === 1);
    expect(links[3]?.counters.requests).toBe(2);
  });

  test("read errors come with their reason", async () => {
    const { pool } = startPool({ size: 1 });
    const heard = observer();
    const path = join(directory, "shrinking");
    writeFileSync(path, content);
    const shrinking = openImage(path);
    const link = await pool.openLink(
      { ...request(), image: { spec: shrinking.spec, fd: shrinking.fd, blockSizeBytes: 512 } },
      heard,
      NEVER,
    );
    close(shrinking.fd);
    writeFileSync(path, "short");
    const client = await MiniNbdClient.open({ fd: link.kernelFd });
    expect((await client.request(0, 4096, 512)).errno).toBe(5);
    await until("the reason", () => heard.heard.some((line) => line.startsWith("1 × ")));
    expect(heard.heard.at(-1)).toContain("truncated from 10000 to 5 bytes");
    await client.disconnect();
  });
});

describe("deaths", () => {
  test("a killed worker: its links end once and say so, another is started, the others serve on", async () => {
    const { pool, log } = startPool();
    const [first, second] = [observer(), observer()];
    const one = await pool.openLink(request(), first, NEVER);
    const two = await pool.openLink(request(), second, NEVER);
    expect(one.workerPid).not.toBe(two.workerPid);
    process.kill(one.workerPid, "SIGKILL");
    await until("the end", () => first.ends.length > 0);
    expect(first.heard).toEqual([`ended: worker ${one.workerPid} was killed by SIGKILL`]);
    expect(first.ends).toEqual([undefined]);
    expect(pool.pids).toHaveLength(2);
    expect(pool.pids).not.toContain(one.workerPid);
    expect(log).toContain(`warn: worker ${one.workerPid} was killed by SIGKILL`);
    close(one.kernelFd);
    const client = await readOver(two);
    const three = await pool.openLink(request(), observer(), NEVER);
    expect(three.workerPid).not.toBe(two.workerPid);
    for (const each of [client, await readOver(three)]) await each.disconnect();
    expect(first.ends).toHaveLength(1);
  });

  test("all workers killed: a link asked for meanwhile waits, and is served by a new one", async () => {
    const { pool } = startPool();
    const first = await pool.openLink(request(), observer(), NEVER);
    close(first.kernelFd);
    const dead = pool.pids;
    for (const pid of dead) process.kill(pid, "SIGKILL");
    const link = await pool.openLink(request(), observer(), NEVER);
    expect(dead).not.toContain(link.workerPid);
    await (await readOver(link)).disconnect();
  });

  test("workers that are dead and not known to be: a link asked for lets the news through", async () => {
    const { pool } = startPool();
    close((await pool.openLink(request(), observer(), NEVER)).kernelFd);
    const workers = pool.pids.map(identifyProcess).filter((found) => found !== undefined);
    for (const { pid } of workers) process.kill(pid, "SIGKILL");
    // Without giving the event loop a turn: it must not hear of the exits before the link is asked for.
    const pause = new Int32Array(new SharedArrayBuffer(4));
    while (workers.some(isAlive)) Atomics.wait(pause, 0, 0, 1);
    const link = await pool.openLink({ ...request(), spread: false }, observer(), NEVER);
    expect(workers.map(({ pid }) => pid)).not.toContain(link.workerPid);
    await (await readOver(link)).disconnect();
  });

  test("a worker that hangs: killed after its time, and another serves the link that it was given", async () => {
    const { pool, log } = startPool({ servingDeadlineMs: 200 });
    const warm = await pool.openLink(request(), observer(), NEVER);
    const idle = pool.pids.find((pid) => pid !== warm.workerPid) ?? 0;
    process.kill(idle, "SIGSTOP");
    const heard = observer();
    const link = await pool.openLink({ ...request(), spread: false }, heard, NEVER);
    expect(link.workerPid).not.toBe(idle);
    expect(log).toContain(`warn: worker ${idle} was killed by SIGKILL`);
    await (await readOver(link)).disconnect();
    await until("its end", () => heard.ends.length === 1);
    await (await readOver(warm)).disconnect();
  });

  test("a worker that hangs while more links come than its channel holds: all are served by the next", async () => {
    const { pool } = startPool({ size: 1, servingDeadlineMs: 600 });
    const warm = await pool.openLink(request(), observer(), NEVER);
    close(warm.kernelFd);
    process.kill(warm.workerPid, "SIGSTOP");
    const links = await Promise.all(
      Array.from({ length: 400 }, () => pool.openLink(request(), observer(), new AbortController().signal)),
    );
    expect(links.map(({ workerPid }) => workerPid)).not.toContain(warm.workerPid);
    const last = links.at(-1);
    if (last !== undefined) await (await readOver(last)).disconnect();
    for (const link of links.slice(0, -1)) close(link.kernelFd);
  });

  test("a report that a hanging worker never gives does not keep status waiting", async () => {
    const { pool } = startPool({ size: 1 });
    const link = await pool.openLink(request(), observer(), NEVER);
    process.kill(link.workerPid, "SIGSTOP");
    await pool.refreshCounters();
    expect(link.counters.requests).toBe(0);
    process.kill(link.workerPid, "SIGKILL");
    close(link.kernelFd);
  });
});

describe("workers that cannot start", () => {
  test("whoever waits for one is told why, when the patience is over", async () => {
    const { pool } = startPool({ size: 1, workerPath: join(directory, "nothing") });
    const stop = new AbortController();
    const opened = pool.openLink(request(), observer(), stop.signal);
    await until("a death", () => pool.pids.length === 0);
    stop.abort();
    await expect(opened).rejects.toMatchObject({
      code: "ERR_WORKER",
      message: expect.stringMatching(/^Cannot get a worker that serves: worker \d+ exited with 1$/),
    });
  });

  test("they are started again ever more slowly, and asking for links does not hurry them", async () => {
    // Exits are real; only the timers between them are the test's.
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const { pool, log } = startPool({ size: 1, workerPath: join(directory, "nothing") });
    const starts = (): number => log.filter((line) => line.includes("Started")).length;
    const allDead = async (): Promise<void> => {
      const end = performance.now() + 5000;
      while (pool.pids.length > 0 && performance.now() < end) await new Promise((go) => setImmediate(go));
      expect(pool.pids).toEqual([]);
    };
    const stop = new AbortController();
    // At least half of 100 ms × 2^n, at most all of it: the nth start must not come before, and must come by then.
    for (let round = 1; round <= 4; round += 1) {
      await allDead();
      expect(starts()).toBe(round);
      const waiting = pool.openLink({ ...request(), spread: false }, observer(), stop.signal);
      waiting.catch(() => {});
      vi.advanceTimersByTime(50 * 2 ** round - 1);
      expect(starts()).toBe(round);
      vi.advanceTimersByTime(50 * 2 ** round + 1);
      expect(starts()).toBe(round + 1);
    }
    await allDead();
    stop.abort();
  });
});

describe("stop", () => {
  test("idle workers leave at once, a busy one when its last link has ended", async () => {
    const { pool } = startPool();
    const heard = observer();
    const link = await pool.openLink(request(), heard, NEVER);
    const client = await readOver(link);
    const workers = pool.pids.map(identifyProcess).filter((found) => found !== undefined);
    pool.stop();
    await until("one has left", () => workers.filter(isAlive).length === 1);
    expect(workers.find(isAlive)?.pid).toBe(link.workerPid);
    expect(await client.read(0, 512)).toHaveLength(512);
    await client.disconnect();
    await until("both have left", () => !workers.some(isAlive));
    expect(heard.ends).toEqual([{ kind: "disconnect" }]);
    await until("the pool to know", () => pool.pids.length === 0);
  });

  test("whoever waits for a worker is told, and nothing is started any more", async () => {
    const { pool } = startPool({ size: 1, workerPath: join(directory, "nothing") });
    const opened = pool.openLink({ ...request(), spread: false }, observer(), NEVER);
    pool.stop();
    await expect(opened).rejects.toMatchObject({ code: "ERR_WORKER" });
    await until("its end", () => pool.pids.length === 0);
    pool.fill();
    expect(pool.pids).toEqual([]);
  });
});
