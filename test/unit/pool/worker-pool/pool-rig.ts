/**
 * A worker pool with real worker processes (of the build), real sockets and a client that shares no code with them.
 * Whatever a test leaves open is closed after it.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, vi } from "vitest";
import { type PoolOptions, WorkerPool } from "../../../../src/pool/worker-pool.ts";
import { type OpenImage, openImage } from "../../../../src/source/open-image.ts";
import type { LinkObserver, LinkRequest, OpenLink, Takeover } from "../../../../src/supervisor/ports.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import type { LinkEnd } from "../../../../src/worker-protocol/link-end.ts";
import { MiniNbdClient } from "../../../helpers/nbd/mini-nbd-client.ts";
import { endPool, WORKER_PATH } from "../../../helpers/processes/built-worker.ts";
import { noSocketsSince, openSockets } from "../../../helpers/sockets/descriptors.ts";
import { until } from "../../../helpers/until.ts";

export const NEVER: AbortSignal = new AbortController().signal;
export const content: Uint8Array = Uint8Array.from({ length: 10_000 }, (_, at) => at % 251);

export interface Observed extends LinkObserver {
  readonly heard: string[];
  readonly ends: Array<LinkEnd | undefined>;
  /** Why its workers went. */
  readonly losses: string[];
}

export function observer(): Observed {
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

/** SIGSTOP for one process; 0 and negative numbers would mean groups, the test's own among them. */
export function stopProcess(pid: number): void {
  if (pid <= 1) throw new Error(`${pid} is not a worker`);
  process.kill(pid, "SIGSTOP");
}

/** Waits until the link has lost so many workers, and has it taken over. */
export async function takenOver(link: OpenLink, heard: Observed, deaths = 1): Promise<Takeover> {
  await until("the death", () => heard.losses.length >= deaths);
  return link.takeOver(NEVER, () => {});
}

export async function readOver(link: OpenLink): Promise<MiniNbdClient> {
  const client = await MiniNbdClient.open({ fd: link.kernelFd });
  expect(await client.read(4096, 1000)).toEqual(Buffer.from(content.subarray(4096, 5096)));
  return client;
}

export class PoolRig {
  readonly #baseline = openSockets();
  readonly #pools: WorkerPool[] = [];
  #image: OpenImage | undefined;
  /** Of the test file. */
  directory = "";
  /** Of the test: sockets of workers that were killed may stay in the one, journals of open links in the other. */
  workers = "";
  journals = "";
  /** The links that are closed after the test. */
  readonly held: OpenLink[] = [];
  /** The number of requests that the kernel would report to be in flight. */
  inFlight: () => number = () => 0;

  openAll(): void {
    this.directory = mkdtempSync(join(tmpdir(), "erofs-nbd-pool-"));
    writeFileSync(join(this.directory, "image"), content);
    this.#image = openImage(join(this.directory, "image"));
  }

  beginTest(): void {
    this.inFlight = () => 0;
    this.workers = mkdtempSync(join(this.directory, "workers-"));
    this.journals = mkdtempSync(join(this.directory, "journals-"));
  }

  async endTest(): Promise<void> {
    vi.useRealTimers();
    for (const link of this.held.splice(0)) link.close();
    for (const pool of this.#pools.splice(0)) await endPool(pool);
  }

  async closeAll(): Promise<void> {
    if (this.#image !== undefined) close(this.#image.fd);
    rmSync(this.directory, { recursive: true });
    await noSocketsSince(this.#baseline);
  }

  /** A pool of two workers, or, where it is not `isWhole`, with the first of them. */
  startPool(options: Partial<PoolOptions> = {}, isWhole = true): { pool: WorkerPool; log: string[] } {
    const log: string[] = [];
    const { workers: directory, journals } = this;
    const pool = new WorkerPool(
      { size: 2, stderr: "ignore", workerPath: WORKER_PATH, directory, journals, ...options },
      { log: (level, message) => log.push(`${level}: ${message}`) },
    );
    this.#pools.push(pool);
    if (isWhole) pool.fill();
    else pool.begin();
    return { pool, log };
  }

  request(changes: Partial<LinkRequest> = {}): LinkRequest {
    const { spec, fd } = this.#image as OpenImage;
    return {
      image: { spec, fd, blockSizeBytes: 4096 },
      copyOnly: false,
      spread: true,
      device: "a device",
      linkIndex: 0,
      deviceIndex: () => undefined,
      below: [],
      counted: true,
      inFlight: () => this.inFlight(),
      hangTimeoutMs: 60_000,
      ...changes,
    };
  }

  /** A link that is closed after the test. */
  async open(
    pool: WorkerPool,
    heard: Observed = observer(),
    changes: Partial<LinkRequest> = {},
  ): Promise<OpenLink> {
    const link = await pool.openLink(this.request(changes), heard, NEVER);
    this.held.push(link);
    return link;
  }
}

/** A rig for the tests of a file. */
export function usePoolRig(): PoolRig {
  const rig = new PoolRig();
  beforeAll(() => rig.openAll());
  beforeEach(() => rig.beginTest());
  afterEach(() => rig.endTest());
  afterAll(() => rig.closeAll());
  return rig;
}
