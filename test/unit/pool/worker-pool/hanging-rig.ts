/**
 * A pool of real workers whose reads hang on demand, with readers that note how long each of their reads took.
 *
 * For tests of hangs. Each reader plays the kernel and supervisor of one link: it reads without a pause, and has the
 * link taken over when its worker is gone. Nothing here asserts a time.
 */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type PoolOptions, WorkerPool } from "../../../../src/pool/worker-pool.ts";
import { type OpenImage, openImage } from "../../../../src/source/open-image.ts";
import type { LinkObserver, LinkRequest, OpenLink } from "../../../../src/supervisor/ports.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../../../../src/sys/process-identity.ts";
import { linkRequest } from "../../../helpers/link-request.ts";
import { MiniNbdClient } from "../../../helpers/nbd/mini-nbd-client.ts";
import { until } from "../../../helpers/until.ts";

const WORKER_PATH = fileURLToPath(new URL("../../../helpers/processes/hanging-worker.mjs", import.meta.url));
const CONTENT = Uint8Array.from({ length: 16_384 }, (_, at) => at % 251);
const NEVER = new AbortController().signal;

/** An image, and how to have its reads hang. */
export interface HangingImage {
  readonly image: OpenImage;
  hang(): void;
  goOn(): void;
  /** Workers in which a read of it has hung, one entry for each read that was begun. */
  readonly hungIn: readonly number[];
}

/** One link with a reader. */
export class ReadLink {
  readonly link: OpenLink;
  readonly #client: MiniNbdClient;
  /** Why its workers went. */
  readonly losses: string[];
  readonly moves: number[];
  readonly #failures: unknown[];
  reads = 0;
  longestReadMs = 0;
  #startedAtMs = 0;
  #stop = false;
  #loop: Promise<void> | undefined;

  constructor(
    link: OpenLink,
    client: MiniNbdClient,
    heard: { losses: string[]; moves: number[]; failures: unknown[] },
  ) {
    this.link = link;
    this.#client = client;
    this.losses = heard.losses;
    this.moves = heard.moves;
    this.#failures = heard.failures;
  }

  /** Since when the read that is under way waits. */
  get waitingMs(): number {
    return this.#startedAtMs === 0 ? 0 : performance.now() - this.#startedAtMs;
  }

  start(): void {
    this.#loop = this.#read();
  }

  /** Ends the reader after its current read. @throws what its reads or takeovers have failed with */
  async stop(): Promise<void> {
    this.#stop = true;
    await this.#loop;
    if (this.#failures.length > 0) throw this.#failures[0];
  }

  async end(): Promise<void> {
    this.#stop = true;
    this.#client.destroy();
    await this.#loop?.catch(() => {});
    this.link.close();
  }

  async #read(): Promise<void> {
    while (!this.#stop) {
      const offset = (this.reads % 12) * 512;
      this.#startedAtMs = performance.now();
      const got = await this.#client.read(offset, 512);
      this.longestReadMs = Math.max(this.longestReadMs, performance.now() - this.#startedAtMs);
      this.#startedAtMs = 0;
      if (!got.equals(CONTENT.subarray(offset, offset + 512))) throw new Error(`wrong bytes at ${offset}`);
      this.reads += 1;
      await new Promise((go) => setImmediate(go));
    }
  }
}

export class HangingRig {
  readonly directory: string;
  readonly workers: string;
  readonly journals: string;
  readonly log: string[] = [];
  readonly #links: ReadLink[] = [];
  readonly #images: OpenImage[] = [];
  readonly #pools: WorkerPool[] = [];
  readonly #processes: ProcessIdentity[] = [];

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "erofs-nbd-hanging-"));
    // Workers look for the triggers, without any right.
    chmodSync(this.directory, 0o755);
    this.workers = mkdtempSync(join(this.directory, "workers-"));
    this.journals = mkdtempSync(join(this.directory, "journals-"));
    writeFileSync(join(this.directory, "reads"), "");
    process.env["HANGING_IMAGES"] = this.directory;
  }

  startPool(options: Partial<PoolOptions> = {}): WorkerPool {
    const { workers: directory, journals } = this;
    const pool = new WorkerPool(
      { size: 2, stderr: "inherit", workerPath: WORKER_PATH, directory, journals, ...options },
      { log: (level, message) => this.log.push(`${level}: ${message}`) },
    );
    this.#pools.push(pool);
    return pool;
  }

  /** Waits until the pool has so many workers that are ready, and notes them to be ended. */
  async ready(pool: WorkerPool, count: number): Promise<void> {
    await until(`${count} workers are ready`, () => {
      return pool.census(performance.now()).workers.filter(({ isReady }) => isReady).length >= count;
    });
  }

  /** A worker that the pool has left. */
  endLater(worker: ProcessIdentity): void {
    this.#processes.push(worker);
  }

  image(name: string): HangingImage {
    const path = join(this.directory, name);
    writeFileSync(path, CONTENT);
    const image = openImage(path);
    this.#images.push(image);
    const { inode } = image.spec.identity;
    const trigger = join(this.directory, `${inode}.hangs`);
    const log = join(this.directory, "reads");
    return {
      image,
      hang: () => writeFileSync(trigger, ""),
      goOn: () => rmSync(trigger, { force: true }),
      get hungIn() {
        return readFileSync(log, "utf8")
          .split("\n")
          .filter((line) => line.endsWith(` ${inode}`))
          .map((line) => Number(line.split(" ")[0]));
      },
    };
  }

  /** Opens a link and starts to read over it. */
  async read(
    pool: WorkerPool,
    { image }: HangingImage,
    changes: Partial<LinkRequest> = {},
  ): Promise<ReadLink> {
    const heard = { losses: [] as string[], moves: [] as number[], failures: [] as unknown[] };
    let opened: OpenLink | undefined;
    const takeOver = (): void => {
      opened?.takeOver(NEVER, () => {}).catch((error: unknown) => heard.failures.push(error));
    };
    const observer: LinkObserver = {
      firstRequest: () => {},
      readErrors: (message) => heard.failures.push(new Error(message)),
      orphaned: (cause) => {
        heard.losses.push(cause);
        takeOver();
      },
      moved: (pid) => heard.moves.push(pid),
      ended: (cause) => {
        if (heard.failures.length === 0) heard.failures.push(new Error(cause));
      },
    };
    opened = await pool.openLink(linkRequest(image, changes), observer, NEVER);
    const link = await this.#follow(opened, heard);
    return link;
  }

  async end(): Promise<void> {
    for (const link of this.#links) await link.end();
    for (const pool of this.#pools) {
      this.#processes.push(...pool.pids.map(identifyProcess).filter((found) => found !== undefined));
      pool.stop();
    }
    for (const one of this.#processes) if (isAlive(one)) process.kill(one.pid, "SIGKILL");
    await until("the workers have ended", () => !this.#processes.some(isAlive));
    for (const { fd } of this.#images) close(fd);
    if (existsSync(this.directory)) rmSync(this.directory, { recursive: true });
    delete process.env["HANGING_IMAGES"];
  }

  async #follow(
    opened: OpenLink,
    heard: { losses: string[]; moves: number[]; failures: unknown[] },
  ): Promise<ReadLink> {
    const client = await MiniNbdClient.open({ fd: opened.kernelFd });
    const link = new ReadLink(opened, client, heard);
    this.#links.push(link);
    link.start();
    return link;
  }
}
