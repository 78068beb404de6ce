/** worker-pool.ts with real worker processes (of the build), real sockets and a client that shares no code with them. */
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { MIN_DELAY_MS, RESTART_BUDGET } from "../../../src/pool/policy/backoff.ts";
import { reattachWorkers } from "../../../src/pool/reattach.ts";
import { type PoolOptions, WorkerPool } from "../../../src/pool/worker-pool.ts";
import { type OpenImage, openImage } from "../../../src/source/open-image.ts";
import type { LinkObserver, LinkRequest, OpenLink, Takeover } from "../../../src/supervisor/ports.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { SHUT_RDWR, shutdown } from "../../../src/sys/libc/sockets.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../../../src/sys/process-identity.ts";
import type { LinkEnd } from "../../../src/worker-protocol/link-end.ts";
import { MiniNbdClient } from "../../helpers/nbd/mini-nbd-client.ts";
import { noSocketsSince, openSockets } from "../../helpers/sockets/descriptors.ts";
import { until } from "../../helpers/until.ts";

const WORKER_PATH = fileURLToPath(new URL("../../../dist/src/worker/main.js", import.meta.url));
const NEVER = new AbortController().signal;
const baseline = openSockets();

let directory: string;
let workers: string;
let journals: string;
const held: OpenLink[] = [];
/** What the kernel would say is on the wire. */
let inFlight = (): number => 0;
let image: OpenImage;
const content = Uint8Array.from({ length: 10_000 }, (_, at) => at % 251);
const pools: WorkerPool[] = [];

beforeAll(() => {
  if (!existsSync(WORKER_PATH)) throw new Error(`${WORKER_PATH} is missing: build first (npm run build)`);
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-pool-"));
  writeFileSync(join(directory, "image"), content);
  image = openImage(join(directory, "image"));
});

beforeEach(() => {
  inFlight = () => 0;
  // Sockets of workers that were killed may stay in the one, journals of links that were never closed in the other.
  workers = mkdtempSync(join(directory, "workers-"));
  journals = mkdtempSync(join(directory, "journals-"));
});

afterEach(async () => {
  vi.useRealTimers();
  for (const link of held.splice(0)) link.close();
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
  /** Why its workers went. */
  readonly losses: string[];
}

function observer(): Observed {
  const heard: string[] = [];
  const ends: Array<LinkEnd | undefined> = [];
  const losses: string[] = [];
  return {
    heard,
    ends,
    losses,
    firstRequest: () => heard.push("first request"),
    readErrors: (message, count) => heard.push(`${count} × ${message}`),
    orphaned: (cause) => {
      heard.push(`orphaned: ${cause}`);
      losses.push(cause);
    },
    moved: (workerPid) => heard.push(`moved to ${workerPid}`),
    ended: (cause, end) => {
      heard.push(`ended: ${cause}`);
      ends.push(end);
    },
  };
}

function startPool(options: Partial<PoolOptions> = {}, isWhole = true): { pool: WorkerPool; log: string[] } {
  const log: string[] = [];
  const pool = new WorkerPool(
    { size: 2, stderr: "ignore", workerPath: WORKER_PATH, directory: workers, journals, ...options },
    { log: (level, message) => log.push(`${level}: ${message}`) },
  );
  pools.push(pool);
  if (isWhole) pool.fill();
  else pool.begin();
  return { pool, log };
}

function request(changes: Partial<LinkRequest> = {}): LinkRequest {
  const { spec, fd } = image;
  return {
    image: { spec, fd, blockSizeBytes: 4096 },
    copyOnly: false,
    spread: true,
    device: "a device",
    linkIndex: 0,
    counted: true,
    inFlight: () => inFlight(),
    hangTimeoutMs: 60_000,
    ...changes,
  };
}

/** SIGSTOP for one process; 0 and negative numbers would mean groups, our own among them. */
function stopProcess(pid: number): void {
  if (pid <= 1) throw new Error(`${pid} is no worker`);
  process.kill(pid, "SIGSTOP");
}

/** A link that is closed after the test. */
async function open(
  pool: WorkerPool,
  heard: Observed = observer(),
  changes: Partial<LinkRequest> = {},
): Promise<OpenLink> {
  const link = await pool.openLink(request(changes), heard, new AbortController().signal);
  held.push(link);
  return link;
}

/** Waits until the link has lost so many workers, and has it taken over. */
async function takenOver(link: OpenLink, heard: Observed, deaths = 1): Promise<Takeover> {
  await until("the death", () => heard.losses.length >= deaths);
  return link.takeOver(NEVER, () => {});
}

async function readOver(link: OpenLink): Promise<MiniNbdClient> {
  const client = await MiniNbdClient.open({ fd: link.kernelFd });
  expect(await client.read(4096, 1000)).toEqual(Buffer.from(content.subarray(4096, 5096)));
  return client;
}

describe("a pool that begins with one worker", () => {
  test("gives it a link; the second is started when it is asked for", async () => {
    const { pool } = startPool({}, false);
    const first = pool.pids;
    expect(first).toHaveLength(1);
    // Waiting for the first worker is no reason to start another beside it.
    const link = await open(pool, observer(), { spread: false });
    expect([pool.pids, link.workerPid]).toEqual([first, first[0]]);
    pool.fill();
    expect(pool.pids).toHaveLength(2);
    close(link.kernelFd);
  });

  test("starts the second at once for links that are to be spread", async () => {
    const { pool } = startPool({}, false);
    const links = [await open(pool, observer(), { spread: false }), await open(pool)];
    expect(new Set(links.map(({ workerPid }) => workerPid)).size).toBe(2);
    for (const { kernelFd } of links) close(kernelFd);
  });

  test("starts another one when it dies", async () => {
    const { pool } = startPool({}, false);
    const heard = observer();
    const link = await open(pool, heard, { spread: false });
    const killed = link.workerPid;
    process.kill(killed, "SIGKILL");
    expect(await takenOver(link, heard)).toMatchObject({ safe: true });
    expect(link.workerPid).not.toBe(killed);
    expect(pool.pids).toHaveLength(1);
    close(link.kernelFd);
  });
});

describe("links", () => {
  test("two workers; links are spread over them, serve, count, and end once with words", async () => {
    const { pool, log } = startPool();
    expect(pool.pids).toHaveLength(2);
    expect(log).toEqual(pool.pids.map((pid) => `info: Started worker ${pid}`));
    const observers = [observer(), observer(), observer(), observer()];
    const links: OpenLink[] = [];
    for (const one of observers) links.push(await open(pool, one));
    expect(links.map(({ workerPid }) => workerPid).sort()).toEqual([...pool.pids, ...pool.pids].sort());
    expect(new Set(links.map(({ number }) => number)).size).toBe(4);

    const clients = await Promise.all(links.map(readOver));
    await until("first requests", () => observers.every(({ heard }) => heard[0] === "first request"));
    await until("all is counted", () => links.every(({ counters }) => counters.requests === 1));
    expect(links.map(({ counters }) => counters)).toEqual(
      Array(4).fill({ requests: 1, readBytes: 1000, readErrors: 0 }),
    );

    await clients[0]?.disconnect();
    // The worker holds a duplicate of this end, so that closing ours would end nothing.
    shutdown(links[1]?.kernelFd ?? -1, SHUT_RDWR);
    links[2]?.close();
    links[2]?.close();
    await until("three ends", () => observers.slice(0, 3).every(({ ends }) => ends.length === 1));
    expect(observers.map(({ ends }) => ends)).toEqual([
      [{ kind: "disconnect" }],
      [{ kind: "end-of-file" }],
      [{ kind: "closed" }],
      [],
    ]);
    expect(links[2]?.counters).toEqual({ requests: 1, readBytes: 1000, readErrors: 0 });
    expect(observers[2]?.heard.at(-1)).toBe(
      `ended: worker ${links[2]?.workerPid} ended the link: it was given up`,
    );
    await clients[2]?.closed;
    await clients[3]?.disconnect();
    await until("the last end", () => observers[3]?.ends.length === 1);
    expect(links[3]?.counters.requests).toBe(1);
    for (const link of links) link.close();
    expect(readdirSync(journals)).toEqual([]);
  });

  test("read errors come with their reason", async () => {
    const { pool } = startPool({ size: 1 });
    const heard = observer();
    const path = join(directory, "shrinking");
    writeFileSync(path, content);
    const shrinking = openImage(path);
    const link = await open(pool, heard, {
      image: { spec: shrinking.spec, fd: shrinking.fd, blockSizeBytes: 512 },
    });
    close(shrinking.fd);
    // Not synchronously: it waits until worker and pool have let go of their lease.
    await writeFile(path, "short");
    const client = await MiniNbdClient.open({ fd: link.kernelFd });
    expect((await client.request(0, 4096, 512)).errno).toBe(5);
    await until("the reason", () => heard.heard.some((line) => line.startsWith("1 × ")));
    expect(heard.heard.at(-1)).toContain("truncated from 10000 to 5 bytes");
    await client.disconnect();
  });
});

describe("deaths", () => {
  test("a killed worker: its link is orphaned, another goes on with the same socket, the rest serve on", async () => {
    const { pool, log } = startPool();
    const [first, second] = [observer(), observer()];
    const one = await open(pool, first);
    const two = await open(pool, second);
    expect(one.workerPid).not.toBe(two.workerPid);
    const client = await readOver(one);
    const killed = one.workerPid;
    stopProcess(killed);
    const waiting = client.read(0, 512);
    inFlight = () => client.inFlight;
    process.kill(killed, "SIGKILL");
    expect(await takenOver(one, first)).toEqual({ safe: true, unanswered: 1 });
    expect(one.workerPid).toBe(two.workerPid);
    expect(await waiting).toEqual(Buffer.from(content.subarray(0, 512)));
    expect(await client.read(1, 512)).toEqual(Buffer.from(content.subarray(1, 513)));
    await until("all is counted", () => one.counters.requests === 3);
    expect(one.counters).toEqual({ requests: 3, readBytes: 2024, readErrors: 0 });
    expect(first.heard).toEqual([
      "first request",
      `orphaned: worker ${killed} was killed by SIGKILL`,
      "first request",
    ]);
    expect(log).toContain(`warn: worker ${killed} was killed by SIGKILL`);
    const other = await readOver(two);
    await until("a successor", () => pool.pids.length === 2);
    expect(pool.pids).not.toContain(killed);
    for (const each of [client, other]) await each.disconnect();
    await until("both ends", () => first.ends.length + second.ends.length === 2);
    expect(second.losses).toEqual([]);
  });

  test("all workers killed: a link asked for meanwhile waits, and is served by a new one", async () => {
    const { pool } = startPool();
    const heard = observer();
    const first = await open(pool, heard);
    const dead = pool.pids;
    for (const pid of dead) process.kill(pid, "SIGKILL");
    const link = await open(pool);
    expect(dead).not.toContain(link.workerPid);
    await (await readOver(link)).disconnect();
    expect(await takenOver(first, heard)).toEqual({ safe: true, unanswered: 0 });
    expect(dead).not.toContain(first.workerPid);
    await (await readOver(first)).disconnect();
  });

  test("workers that are dead and not known to be: a link asked for lets the news through", async () => {
    const { pool } = startPool();
    close((await open(pool)).kernelFd);
    const workers = pool.pids.map(identifyProcess).filter((found) => found !== undefined);
    for (const { pid } of workers) process.kill(pid, "SIGKILL");
    // Without giving the event loop a turn: it must not hear of the exits before the link is asked for.
    const pause = new Int32Array(new SharedArrayBuffer(4));
    while (workers.some(isAlive)) Atomics.wait(pause, 0, 0, 1);
    const link = await open(pool, observer(), { spread: false });
    expect(workers.map(({ pid }) => pid)).not.toContain(link.workerPid);
    await (await readOver(link)).disconnect();
  });

  test("the successor dies too: orphaned again, and taken over again", async () => {
    const { pool } = startPool();
    const heard = observer();
    const link = await open(pool, heard);
    const client = await readOver(link);
    for (let death = 1; death <= 4; death += 1) {
      process.kill(link.workerPid, "SIGKILL");
      expect(await takenOver(link, heard, death)).toMatchObject({ safe: true });
      expect(await client.read(death, 512)).toEqual(Buffer.from(content.subarray(death, death + 512)));
    }
    await until("all is counted", () => link.counters.requests === 5);
    expect(heard.losses).toHaveLength(4);
    await client.disconnect();
    await until("its end", () => heard.ends.length === 1);
  });

  test("a takeover that is not to be waited for ends with the signal's reason", async () => {
    const { pool } = startPool({ size: 1 });
    const heard = observer();
    const link = await open(pool, heard);
    const [pid] = pool.pids as [number];
    process.kill(pid, "SIGKILL");
    await until("the death", () => heard.losses.length > 0);
    const stop = new AbortController();
    const taking = link.takeOver(stop.signal, () => {});
    stop.abort();
    await expect(taking).rejects.toThrow();
    expect(await link.takeOver(NEVER, () => {})).toMatchObject({ safe: true });
    await (await readOver(link)).disconnect();
  });

  test("a worker that hangs when it is given a link: killed after its time, and another serves it", async () => {
    const { pool, log } = startPool({ servingDeadlineMs: 200 });
    const warm = await open(pool);
    await until("two workers", () => pool.pids.length === 2);
    const idle = pool.pids.find((pid) => pid !== warm.workerPid) ?? -1;
    stopProcess(idle);
    const heard = observer();
    const link = await open(pool, heard, { spread: false });
    expect(link.workerPid).not.toBe(idle);
    expect(log).toContain(`warn: worker ${idle} did not take or give a link in time; it was killed`);
    await (await readOver(link)).disconnect();
    await until("its end", () => heard.ends.length === 1);
    expect(heard.losses).toEqual([]);
    await (await readOver(warm)).disconnect();
  });

  test("a worker met again, with a link that has to be left to it, is no idle one: it serves on when the pool stops", async () => {
    const { pool } = startPool({ size: 1 });
    const link = await open(pool);
    const client = await readOver(link);
    const served = identifyProcess(link.workerPid) as ProcessIdentity;
    pool.leave();
    // Before the next pool has a worker of its own, which is not to be met: so does a manager.
    const { reattached, silent } = await reattachWorkers(workers, journals);
    const { pool: second } = startPool({ size: 1 });
    expect(silent).toEqual([]);
    const links = reattached.flatMap((one) => second.adopt(one));
    expect(links.map(({ workerPid }) => workerPid)).toEqual([served.pid]);
    for (const one of links) one.leave();
    second.stop();
    expect(await client.read(0, 100)).toEqual(Buffer.from(content.subarray(0, 100)));
    await client.disconnect();
    await until("the worker's end", () => !isAlive(served));
  });

  test("a worker that does not answer the next manager is known by its socket's name", async () => {
    const { pool } = startPool({ size: 1 });
    const link = await open(pool);
    close(link.kernelFd);
    const served = identifyProcess(link.workerPid) as ProcessIdentity;
    pool.leave();
    stopProcess(served.pid);
    expect(await reattachWorkers(workers, journals)).toEqual({ reattached: [], silent: [served] });
    process.kill(served.pid, "SIGKILL");
    await until("its end", () => !isAlive(served));
    // Its other threads hold its socket, too, until they are gone.
    await vi.waitFor(async () => {
      expect(await reattachWorkers(workers, journals)).toEqual({ reattached: [], silent: [] });
      expect(readdirSync(workers)).toEqual([]);
    });
  });

  test("a worker of many links: those that reads wait on are told first", async () => {
    const { pool } = startPool({ size: 1 });
    const order: number[] = [];
    const links: OpenLink[] = [];
    for (let at = 0; at < 5; at += 1)
      links.push(await open(pool, { ...observer(), orphaned: () => order.push(at) }));
    const waiting = links[3] as OpenLink;
    const client = await MiniNbdClient.open({ fd: waiting.kernelFd });
    stopProcess(waiting.workerPid);
    const read = client.read(0, 1000);
    await until("the request", () => !waiting.isQuiet);
    inFlight = () => 1;
    process.kill(waiting.workerPid, "SIGKILL");
    await until("all deaths", () => order.length === links.length);
    expect(order).toEqual([3, 0, 1, 2, 4]);
    expect(await waiting.takeOver(NEVER, () => {})).toEqual({ safe: true, unanswered: 1 });
    expect(await read).toEqual(Buffer.from(content.subarray(0, 1000)));
    await client.disconnect();
    for (const link of links) if (link !== waiting) close(link.kernelFd);
  });

  test("a worker that is slow to take hundreds of links, but makes progress, is not killed", async () => {
    const servingDeadlineMs = 1500;
    const { pool, log } = startPool({ size: 1, servingDeadlineMs });
    const warm = await open(pool);
    close(warm.kernelFd);
    const startedAt = performance.now();
    const links: OpenLink[] = [];
    const opening = Array.from({ length: 300 }, async () => links.push(await open(pool)));
    for (let stops = 0; stops < 8 && links.length < opening.length; stops += 1) {
      const before = links.length;
      process.kill(warm.workerPid, "SIGSTOP");
      await sleep(300);
      process.kill(warm.workerPid, "SIGCONT");
      // On a busy machine it takes a while until the worker runs; it must take one link at least between two stops.
      while (links.length === before) await nextTurn();
    }
    await Promise.all(opening);
    expect(log.filter((line) => line.startsWith("warn"))).toEqual([]);
    expect(performance.now() - startedAt).toBeGreaterThan(servingDeadlineMs);
    expect(new Set(links.map(({ workerPid }) => workerPid))).toEqual(new Set([warm.workerPid]));
    for (const link of links) close(link.kernelFd);
  });

  test("a worker that hangs while more links come than its channel holds: all are served by the next", async () => {
    const { pool } = startPool({ size: 1, servingDeadlineMs: 600 });
    const warm = await open(pool);
    close(warm.kernelFd);
    stopProcess(warm.workerPid);
    const links = await Promise.all(Array.from({ length: 400 }, () => open(pool)));
    expect(links.map(({ workerPid }) => workerPid)).not.toContain(warm.workerPid);
    const last = links.at(-1);
    if (last !== undefined) await (await readOver(last)).disconnect();
    for (const link of links.slice(0, -1)) close(link.kernelFd);
  });

  test("a worker that hangs with requests waiting: found, killed, and its link taken over", async () => {
    const { pool, log } = startPool();
    const heard = observer();
    const link = await open(pool, heard, { hangTimeoutMs: 1500 });
    const client = await readOver(link);
    const hung = link.workerPid;
    stopProcess(hung);
    const waiting = client.read(0, 512);
    inFlight = () => client.inFlight;
    expect(await takenOver(link, heard)).toEqual({ safe: true, unanswered: 1 });
    expect(await waiting).toHaveLength(512);
    expect(link.workerPid).not.toBe(hung);
    expect(
      log.some((line) => line.startsWith(`warn: worker ${hung}`) && line.endsWith("it was killed")),
    ).toBe(true);
    await client.disconnect();
  });

  test("the counters of a hanging worker's link can be read at any time", async () => {
    const { pool } = startPool({ size: 1 });
    const link = await open(pool);
    const client = await readOver(link);
    await until("the read is counted", () => link.counters.requests === 1);
    stopProcess(link.workerPid);
    expect(link.counters).toEqual({ requests: 1, readBytes: 1000, readErrors: 0 });
    process.kill(link.workerPid, "SIGKILL");
    client.destroy();
  });

  test("a link that is closed while nobody serves it: its socket and its journal go", async () => {
    const { pool } = startPool({ size: 1 });
    const heard = observer();
    const link = await open(pool, heard);
    const client = await readOver(link);
    await until("the read is counted", () => link.counters.requests === 1);
    process.kill(link.workerPid, "SIGKILL");
    await until("the death", () => heard.losses.length > 0);
    link.close();
    await client.closed;
    expect(readdirSync(journals)).toEqual([]);
    expect(link.counters.requests).toBe(1);
    expect(heard.ends).toEqual([]);
  });
});

describe("renew", () => {
  test("every worker is replaced; links go on over the same sockets, and say so", async () => {
    const { pool } = startPool();
    const observers = [observer(), observer(), observer()];
    const links: OpenLink[] = [];
    for (const one of observers) links.push(await open(pool, one));
    const clients = await Promise.all(links.map(readOver));
    const before = pool.pids;
    const reads = clients.map((client) =>
      Promise.all(Array.from({ length: 300 }, (_, at) => client.read(at, 100 + at))),
    );
    const renewal = await pool.renew();
    expect(renewal).toMatchObject({ workers: 2, links: 3 });
    expect(pool.pids).toHaveLength(2);
    expect(pool.pids.some((pid) => before.includes(pid))).toBe(false);
    for (const [at, link] of links.entries()) {
      expect(pool.pids).toContain(link.workerPid);
      expect(observers[at]?.heard.filter((line) => line.startsWith("moved"))).toEqual([
        `moved to ${link.workerPid}`,
      ]);
    }
    for (const got of reads)
      for (const [at, data] of (await got).entries())
        expect(data.equals(content.subarray(at, at + 100 + at))).toBe(true);
    for (const client of clients) await client.disconnect();
    await until("all ends", () => observers.every(({ ends }) => ends.length === 1));
    for (const { losses } of observers) expect(losses).toEqual([]);
    expect(links.map(({ counters }) => counters.requests)).toEqual([301, 301, 301]);
  });

  test("fresh workers that do not start leave everything as it is", async () => {
    const program = join(directory, "worker-that-breaks.mjs");
    writeFileSync(program, `await import(${JSON.stringify(WORKER_PATH)});\n`);
    const { pool } = startPool({ workerPath: program });
    const heard = observer();
    const link = await open(pool, heard);
    const client = await readOver(link);
    const before = pool.pids;
    writeFileSync(program, "process.exit(7);\n");
    await expect(pool.renew()).rejects.toMatchObject({
      code: "ERR_WORKER",
      message: expect.stringMatching(/^cannot replace the workers: worker \d+ exited with 7$/),
    });
    expect(pool.pids).toEqual(before);
    expect(await client.read(0, 512)).toHaveLength(512);
    expect(heard.heard).toEqual(["first request"]);
    await client.disconnect();
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
      message: expect.stringMatching(/^cannot get a worker that serves: worker \d+ exited with 1$/),
    });
  });

  test("one that is slow is waited for beyond the deadline of an attach", async () => {
    const program = join(directory, "worker-that-is-slow.mjs");
    const slow = `await new Promise((done) => setTimeout(done, 1500));\nawait import(${JSON.stringify(WORKER_PATH)});\n`;
    writeFileSync(program, slow);
    const { pool } = startPool({ size: 1, workerPath: program });
    const deadline = AbortSignal.timeout(100);
    const link = await pool.openLink({ ...request(), spread: false }, observer(), deadline);
    held.push(link);
    expect(deadline.aborted).toBe(true);
    expect(pool.pids).toEqual([link.workerPid]);
    await (await readOver(link)).disconnect();
  });

  test("one that hangs is ended, and those who wait for it are told that", async () => {
    const program = join(directory, "worker-that-hangs.mjs");
    writeFileSync(program, "setInterval(() => {}, 100);\n");
    const { pool } = startPool({ size: 1, workerPath: program, startSilenceMs: 600 });
    const opened = pool.openLink({ ...request(), spread: false }, observer(), AbortSignal.timeout(100));
    await expect(opened).rejects.toMatchObject({
      code: "ERR_WORKER",
      message: expect.stringMatching(
        /worker \d+ did not get ready: it has done nothing for 1 s; it was killed$/,
      ),
    });
  });

  test("they are started again ever more slowly, and asking for links does not hurry them", async () => {
    // Exits are real; only the timers between them are the test's.
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const { pool, log } = startPool({ size: 1, workerPath: join(directory, "nothing") });
    const starts = (): number => log.filter((line) => line.includes("Started")).length;
    const allDead = async (count: number): Promise<void> => {
      const end = performance.now() + 60_000;
      while ((starts() < count || pool.pids.length > 0) && performance.now() < end)
        await new Promise((go) => setImmediate(go));
      expect([starts(), pool.pids]).toEqual([count, []]);
    };
    const stop = new AbortController();
    await allDead(RESTART_BUDGET + 1);
    // Between half of it and all of it: the next start must not come before, and must come by then.
    for (let round = 0; round < 3; round += 1) {
      const mostMs = MIN_DELAY_MS * 2 ** round;
      const before = RESTART_BUDGET + 1 + round;
      const waiting = pool.openLink(request({ spread: false }), observer(), stop.signal);
      waiting.catch(() => {});
      vi.advanceTimersByTime(mostMs / 2 - 1);
      expect(starts()).toBe(before);
      vi.advanceTimersByTime(mostMs / 2 + 1);
      await allDead(before + 1);
    }
    stop.abort();
  });
});

describe("stop", () => {
  test("idle workers leave at once, a busy one when its last link has ended", async () => {
    const { pool } = startPool();
    const heard = observer();
    const link = await open(pool, heard);
    const client = await readOver(link);
    const workers = pool.pids.map(identifyProcess).filter((found) => found !== undefined);
    pool.stop();
    await until("one has left", () => workers.filter(isAlive).length === 1);
    expect(workers.find(isAlive)?.pid).toBe(link.workerPid);
    expect(await client.read(0, 512)).toHaveLength(512);
    await client.disconnect();
    await until("both have left", () => !workers.some(isAlive));
    await until("the link to have ended", () => heard.ends.length > 0);
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
