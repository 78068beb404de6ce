/**
 * Writers, touches, workers that die and a kernel that reads when it likes, in any order: no reply has a byte of what
 * was written.
 *
 * Real workers, a file on tmpfs. A few orders here; ORDERS=200 makes it a long run, SEED=n repeats one.
 */

import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { expect, test } from "vitest";
import { WorkerPool } from "../../src/pool/worker-pool.ts";
import { openImage } from "../../src/source/open-image.ts";
import type { LinkObserver, LinkRequest, OpenLink } from "../../src/supervisor/ports.ts";
import { close } from "../../src/sys/libc/files.ts";
import { linkRequest } from "../helpers/link-request.ts";
import { BAD, GOOD, OneByteReader } from "../helpers/nbd/one-byte-reader.ts";
import { endPool, WORKER_PATH } from "../helpers/processes/built-worker.ts";
import { until } from "../helpers/until.ts";

const ORDERS = Number(process.env["ORDERS"] ?? 6);
const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const MADE_AT = 1_700_000_000;
const MAX_IN_FLIGHT = 8;
const NEVER = new AbortController().signal;

class World {
  readonly #directory = mkdtempSync("/dev/shm/erofs-nbd-orders-");
  readonly #path = join(this.#directory, "image");
  readonly #pool: WorkerPool;
  readonly #request: LinkRequest;
  #reader!: OneByteReader;
  #link!: OpenLink;
  readonly #ends: string[] = [];
  #orphaned = false;
  #writer: { done: boolean } | undefined;
  #time = MADE_AT;

  constructor() {
    for (const name of ["workers", "journals"]) mkdirSync(join(this.#directory, name));
    writeFileSync(this.#path, GOOD);
    utimesSync(this.#path, MADE_AT, MADE_AT);
    const [directory, journals] = ["workers", "journals"].map((name) => join(this.#directory, name)) as [
      string,
      string,
    ];
    this.#pool = new WorkerPool(
      { size: 2, stderr: "ignore", workerPath: WORKER_PATH, directory, journals },
      { log: () => {} },
    );
    this.#pool.fill();
    const image = openImage(this.#path);
    this.#request = linkRequest(image, {
      image: { ...image, blockSizeBytes: 4096 },
      counted: true,
      inFlight: () => this.#reader.inFlight,
      hangTimeoutMs: 60_000,
    });
  }

  async open(): Promise<void> {
    const observer: LinkObserver = {
      firstRequest: () => {},
      readErrors: () => {},
      orphaned: () => {
        this.#orphaned = true;
      },
      moved: () => {},
      ended: (cause) => this.#ends.push(cause),
    };
    this.#link = await this.#pool.openLink(this.#request, observer, NEVER);
    this.#reader = new OneByteReader(this.#link);
    await until("it is leased", () => this.#link.exactness?.exact === "lease");
  }

  readonly acts: Record<string, () => Promise<void>> = {
    ask: async () => this.#reader.ask(Math.min(3, MAX_IN_FLIGHT - this.#reader.inFlight)),
    "read a little": async () => this.#reader.hearSome(100_000),
    "read all": async () => this.#reader.hear(),
    wait: () => sleep(8),
    write: async () => {
      if (this.#writer !== undefined) return;
      const writer = { done: false };
      this.#writer = writer;
      void writeFile(this.#path, BAD, { flag: "r+" }).then(() => {
        writer.done = true;
      });
    },
    touch: async () => {
      if (this.#writer !== undefined || this.#link.exactness?.exact !== "lease") return;
      this.#time += 1;
      utimesSync(this.#path, this.#time, this.#time);
    },
    "put back": async () => {
      if (this.#writer === undefined) return;
      await this.#finishWriting();
      await writeFile(this.#path, GOOD, { flag: "r+" });
      const { spec } = this.#request.image;
      const pinned = spec.type === "file" ? Number(BigInt(spec.identity.mtimeNs) / 1_000_000_000n) : 0;
      utimesSync(this.#path, pinned, pinned);
      this.#writer = undefined;
    },
    kill: async () => {
      process.kill(this.#link.workerPid, "SIGKILL");
      await until("it is orphaned", () => this.#orphaned);
      this.#orphaned = false;
      const taken = this.#link.takeOver(NEVER, () => {});
      let isOver = false;
      void taken.then(() => {
        isOver = true;
      });
      await until("it is taken over", () => {
        this.#reader.hearSome(50_000);
        return isOver;
      });
      expect(await taken).toMatchObject({ safe: true });
    },
  };

  async end(): Promise<void> {
    await this.#reader.hear();
    await this.#finishWriting();
    expect(this.#reader.wrong).toBe(0);
    expect(this.#ends).toEqual([]);
  }

  async #finishWriting(): Promise<void> {
    await until("the writer is done", () => {
      this.#reader.hearSome(Number.POSITIVE_INFINITY);
      return this.#writer?.done !== false;
    });
  }

  async dispose(): Promise<void> {
    this.#link.close();
    close(this.#link.kernelFd);
    await endPool(this.#pool);
    close(this.#request.image.fd);
    rmSync(this.#directory, { recursive: true });
  }
}

const names = [
  "ask",
  "ask",
  "ask",
  "read a little",
  "read all",
  "wait",
  "write",
  "touch",
  "put back",
  "kill",
];

test(`no order shows a byte of what was written (seed ${SEED})`, {
  timeout: 60_000 + ORDERS * 20_000,
}, async () => {
  const order = fc.array(fc.constantFrom(...names), { minLength: 5, maxLength: 16 });
  await fc.assert(
    fc.asyncProperty(order, async (acts) => {
      const world = new World();
      try {
        await world.open();
        for (const act of acts) await world.acts[act]?.();
        await world.end();
      } finally {
        await world.dispose();
      }
    }),
    { seed: SEED, numRuns: ORDERS, endOnFailure: true },
  );
});
