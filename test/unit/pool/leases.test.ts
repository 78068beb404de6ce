/**
 * Images that are overwritten in place while workers serve them: nothing but the bytes of the attach, or an error, is
 * ever read.
 *
 * Real workers of the build and a file on tmpfs, whose leases count. The test plays the kernel, and lets replies lie in
 * the socket for as long as it likes. Writers are asynchronous: they wait for a lease that this very process has a part
 * in.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { reattachWorkers } from "../../../src/pool/reattach.ts";
import { WorkerPool } from "../../../src/pool/worker-pool.ts";
import { type OpenImage, openImage } from "../../../src/source/open-image.ts";
import type { LinkObserver, LinkRequest, OpenLink } from "../../../src/supervisor/ports.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { isAlive } from "../../../src/sys/process-identity.ts";
import { BAD, GOOD, IMAGE_BYTES, OneByteReader } from "../../helpers/nbd/one-byte-reader.ts";
import { endPool, WORKER_PATH, workersOf } from "../../helpers/processes/built-worker.ts";
import { until } from "../../helpers/until.ts";

const NEVER = new AbortController().signal;
const MADE_AT = 1_700_000_000;

let directory: string;
let path: string;
let image: OpenImage;
let pool: WorkerPool;
let links: OpenLink[];
let orphaned: string[];
let repinned: number;

beforeEach(() => {
  directory = mkdtempSync("/dev/shm/erofs-nbd-leases-");
  for (const name of ["workers", "journals"]) mkdirSync(join(directory, name));
  path = join(directory, "image");
  writeFileSync(path, GOOD);
  utimesSync(path, MADE_AT, MADE_AT);
  image = openImage(path);
  links = [];
  orphaned = [];
  repinned = 0;
  pool = startPool();
});

afterEach(async () => {
  for (const link of links) {
    link.close();
    close(link.kernelFd);
  }
  await endPool(pool);
  close(image.fd);
  rmSync(directory, { recursive: true });
});

function startPool(): WorkerPool {
  const started = new WorkerPool(
    {
      size: 2,
      stderr: "ignore",
      workerPath: WORKER_PATH,
      directory: join(directory, "workers"),
      journals: join(directory, "journals"),
    },
    { log: () => {} },
  );
  started.fill();
  return started;
}

let reader: OneByteReader;

function request(linkIndex: number): LinkRequest {
  const { spec, fd } = image;
  return {
    image: { spec, fd, blockSizeBytes: 4096 },
    copyOnly: false,
    spread: false,
    device: "a device",
    linkIndex,
    deviceIndex: () => undefined,
    below: [],
    counted: true,
    inFlight: () => reader.inFlight,
    hangTimeoutMs: 60_000,
  };
}

const observer: LinkObserver = {
  firstRequest: () => {},
  readErrors: () => {},
  repinned: () => {
    repinned += 1;
  },
  orphaned: (cause) => orphaned.push(cause),
  moved: () => {},
  ended: () => {},
};

async function open(asked: LinkRequest = request(0)): Promise<OneByteReader> {
  const link = await pool.openLink(asked, observer, NEVER);
  links.push(link);
  reader = new OneByteReader(link);
  return reader;
}

/** Begins the next manager's pool, and returns the link that it has from the former one. */
async function adoptLink(): Promise<OpenLink> {
  const { reattached } = await reattachWorkers(join(directory, "workers"), join(directory, "journals"));
  pool = startPool();
  const [found] = reattached.flatMap((one) => pool.adopt(one));
  if (found === undefined) throw new Error("no worker has reported the link");
  close(found.imageFd);
  const next = found.open(request(0), observer);
  links.push(next);
  return next;
}

const isLeased = (link: OpenLink): boolean => link.exactness?.exact === "lease";

/** Whether leases that a writer waits for, or holds of ours, are on the image. */
function leases(state: "ACTIVE" | "BREAKING"): number {
  const { ino } = statSync(path);
  const lines = readFileSync("/proc/locks", "latin1").split("\n");
  return lines.filter((line) => line.includes(` LEASE  ${state} `) && line.includes(`:${ino} `)).length;
}

/** Starts to write, and returns when the writer waits. */
async function beginToWrite(what: () => Promise<void>): Promise<{ readonly isDone: () => boolean }> {
  let done = false;
  void what().then(() => {
    done = true;
  });
  await until("the writer waits", () => leases("BREAKING") > 0);
  return { isDone: () => done };
}

describe("under a lease", () => {
  test("a writer waits until the socket has been read; then reads fail until the image is restored", async () => {
    const { link } = await open();
    await until("it is leased", () => isLeased(link));
    reader.ask(4);
    await until("replies lie in the socket", () => link.counters.requests > 0 || link.counters.readBytes > 0);
    const writer = await beginToWrite(() => writeFile(path, BAD, { flag: "r+" }));
    reader.ask(2);
    await until("the worker has heard of it", () => link.exactness?.exact === "checked");
    for (let look = 0; look < 20; look += 1) {
      await sleep(5);
      expect(writer.isDone()).toBe(false);
    }
    await reader.hear();
    await until("it has written", writer.isDone);
    reader.ask(4);
    await reader.hear();
    expect(reader).toMatchObject({ wrong: 0, errors: 4 });
    await until("why is told", () => link.exactness?.change === "it was modified");
    expect(link.exactness?.exact).toBe("checked");
    await writeFile(path, GOOD, { flag: "r+" });
    utimesSync(path, MADE_AT, MADE_AT);
    await until("it is leased again", () => isLeased(link));
    expect(link.exactness?.change).toBeNull();
    reader.ask(4);
    await reader.hear();
    expect(reader).toMatchObject({ wrong: 0, errors: 4 });
  });

  test("a truncation waits as well", async () => {
    const { link } = await open();
    await until("it is leased", () => isLeased(link));
    reader.ask(4);
    await until("replies lie in the socket", () => link.counters.readBytes > 0);
    const writer = await beginToWrite(() => truncate(path, 1000));
    await reader.hear();
    await until("it is shorter", writer.isDone);
    reader.ask(1);
    await reader.hear();
    expect(reader).toMatchObject({ wrong: 0, errors: 1 });
  });

  test("a new modification time alone is accepted as the image's own", async () => {
    const asked = request(0);
    const { link } = await open(asked);
    await until("it is leased", () => isLeased(link));
    utimesSync(path, 5, 5);
    reader.ask(4);
    await reader.hear();
    await until("the new time is known", () => repinned > 0);
    expect(asked.image.spec).toMatchObject({ identity: { mtimeNs: "5000000000" } });
    // Who opens it and writes nothing changes nothing either.
    await truncate(path, IMAGE_BYTES);
    reader.ask(4);
    await reader.hear();
    expect(reader).toMatchObject({ wrong: 0 });
  });

  test("replies of a worker killed while a writer waits arrive unchanged; then the writer goes on", async () => {
    const { link } = await open();
    await until("it is leased", () => isLeased(link));
    reader.ask(6);
    await until("replies lie in the socket", () => link.counters.readBytes > 0);
    process.kill(link.workerPid, "SIGSTOP");
    const writer = await beginToWrite(() => writeFile(path, BAD, { flag: "r+" }));
    process.kill(link.workerPid, "SIGKILL");
    await until("it is orphaned", () => orphaned.length === 1);
    expect(writer.isDone()).toBe(false);
    const taken = link.takeOver(NEVER, () => {});
    await reader.hear();
    expect(await taken).toMatchObject({ safe: true });
    await until("it has written", writer.isDone);
    reader.ask(2);
    await reader.hear();
    expect(reader).toMatchObject({ wrong: 0, right: 6, errors: 2 });
  });

  test("a takeover continues under the same lease, also if the image got another modification time", async () => {
    const { link } = await open();
    await until("it is leased", () => isLeased(link));
    process.kill(link.workerPid, "SIGSTOP");
    utimesSync(path, 7, 7);
    process.kill(link.workerPid, "SIGKILL");
    await until("it is orphaned", () => orphaned.length === 1);
    expect(leases("ACTIVE")).toBe(1);
    expect(await link.takeOver(NEVER, () => {})).toMatchObject({ safe: true });
    reader.ask(4);
    await reader.hear();
    expect(reader).toMatchObject({ right: 4 });
    // Returns when the new owner has heard of it and let go.
    await writeFile(path, BAD, { flag: "r+" });
  });

  test("a worker without a manager gives its lease up, and the next manager gives it another", async () => {
    const { link } = await open();
    await until("it is leased", () => isLeased(link));
    reader.ask(4);
    await until("replies lie in the socket", () => link.counters.readBytes > 0);
    const former = workersOf(pool);
    pool.leave();
    // What a manager that was killed has no more.
    link.close();
    const writer = await beginToWrite(() => writeFile(path, GOOD, { flag: "r+" }));
    await reader.hear();
    await until("it has written", writer.isDone);
    utimesSync(path, MADE_AT, MADE_AT);
    const next = await adoptLink();
    await until("it is leased again", () => isLeased(next));
    expect(reader).toMatchObject({ right: 4, wrong: 0 });
    for (const worker of former.filter(isAlive)) expect(pool.pids).toContain(worker.pid);
  });

  test("the next manager keeps an existing lease", async () => {
    const { link } = await open();
    await until("it is leased", () => isLeased(link));
    pool.leave();
    const next = await adoptLink();
    link.close();
    await until("it is told", () => isLeased(next));
    expect(leases("ACTIVE")).toBe(1);
    // Returns when both have let go.
    await writeFile(path, BAD, { flag: "r+" });
  });
});

test("an image that a process has open for writing is served without a lease, and checked", async () => {
  const { open: openFile } = await import("node:fs/promises");
  const writer = await openFile(path, "r+");
  const { link } = await open();
  await until("it is told", () => link.exactness !== undefined);
  expect(link.exactness).toMatchObject({ exact: "checked", change: null });
  reader.ask(4);
  await reader.hear();
  expect(reader).toMatchObject({ right: 4 });
  await writer.write(BAD, 0, IMAGE_BYTES, 0);
  reader.ask(4);
  await reader.hear();
  expect(reader).toMatchObject({ right: 4, wrong: 0, errors: 4 });
  await writer.write(GOOD, 0, IMAGE_BYTES, 0);
  await writer.close();
  utimesSync(path, MADE_AT, MADE_AT);
  await until("it is leased", () => isLeased(link));
});
