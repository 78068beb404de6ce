/**
 * Workers killed at random instants and steps, with many links of every kind at once: nothing is lost, nothing is
 * answered twice.
 *
 * Real worker processes, real settling; the test plays the kernel on every link (kernel-side.ts). One kill is as many
 * takeovers as there are links. A few kills here; KILLS=200 makes it a long run, SEED=n repeats one.
 */
import { randomFillSync } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { STILL_MS } from "../../src/journal/account.ts";
import { createLink } from "../../src/pool/links/create-link.ts";
import type { HeldLink } from "../../src/pool/links/held-link.ts";
import { startWorker } from "../../src/pool/spawn.ts";
import type { WorkerProcess } from "../../src/pool/worker-process.ts";
import { type OpenImage, openImage } from "../../src/source/open-image.ts";
import { close } from "../../src/sys/libc/files.ts";
import { SO_SNDBUF, SOL_SOCKET, setSocketOption } from "../../src/sys/libc/sockets.ts";
import { KernelSide, type LinkHabits } from "../helpers/nbd/kernel-side.ts";
import { HABITS } from "../helpers/nbd/link-habits.ts";
import { until } from "../helpers/until.ts";

const WORKER_PATH = fileURLToPath(new URL("../helpers/processes/step-worker.mjs", import.meta.url));
const KILLS = Number(process.env["KILLS"] ?? 12);
const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const IMAGE_BYTES = 8 << 20;
const K = 1024;
/**
 * The kernel doubles it, and cuts what is sent at half of that: less would break what a worker relies on
 * (ATOMIC_BYTES).
 */
const TIGHT_BYTES = 40 * K;

/** A request that was lost is never answered, however long one waits. */
const DRAIN_MS = 20_000;

interface Played {
  readonly name: string;
  readonly link: HeldLink;
  readonly kernel: KernelSide;
  readonly tight: boolean;
}

interface Started {
  readonly process: WorkerProcess;
  readonly exited: Promise<void>;
  /** By itself. */
  readonly ends: boolean;
}

let directory: string;
let opened: OpenImage;
const image = randomFillSync(new Uint8Array(IMAGE_BYTES));
const ends: string[] = [];
let played: Played[] = [];

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-kills-"));
  writeFileSync(join(directory, "image"), image);
  for (const name of ["journals", "workers"]) mkdirSync(join(directory, name));
  opened = openImage(join(directory, "image"));
});
afterAll(() => {
  close(opened.fd);
  rmSync(directory, { recursive: true, force: true });
});

/** Numbers from 0 to 1 that a seed decides (a 32-bit linear congruential generator: enough to vary instants). */
function chances(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function play(name: string, habits: LinkHabits & { tightSocket?: true }, counted: boolean): Played {
  const own: { kernel?: KernelSide } = {};
  const link = createLink(
    played.length + 1,
    {
      image: { spec: opened.spec, fd: opened.fd, blockSizeBytes: 512 },
      copyOnly: false,
      spread: false,
      device: "any",
      linkIndex: played.length,
      deviceIndex: () => undefined,
      below: [],
      counted,
      inFlight: () => (counted ? own.kernel?.inFlight : undefined),
      hangTimeoutMs: 60_000,
    },
    {
      firstRequest: () => {},
      readErrors: () => {},
      orphaned: () => {},
      moved: () => {},
      ended: (cause) => ends.push(`${name}: ${cause}`),
    },
    join(directory, "journals"),
  );
  const kernel = new KernelSide(link.kernelFd, image, habits);
  own.kernel = kernel;
  return {
    name: `${name}, ${counted ? "counted" : "not counted"}`,
    link,
    kernel,
    tight: habits.tightSocket === true,
  };
}

/** A worker that is ready, and ends at its `step`-th step after it was given its first link; 0: it does not. */
function start(step: number, only?: string): Promise<Started> {
  process.env["STEP_KILL"] = String(step);
  if (only === undefined) delete process.env["STEP_ONLY"];
  else process.env["STEP_ONLY"] = only;
  return new Promise((resolve, reject) => {
    let gone = (): void => {};
    const exited = new Promise<void>((settled) => {
      gone = settled;
    });
    const worker: WorkerProcess = startWorker(
      { stderr: "inherit", directory: join(directory, "workers"), workerPath: WORKER_PATH },
      {
        ready: () => resolve({ process: worker, exited, ends: step > 0 }),
        exited: (how) => {
          gone();
          reject(new Error(`it did not get ready: ${how}`));
        },
      },
    );
  });
}

/** One turn of every kernel's side, and of the event loop. */
async function turnAll(): Promise<void> {
  for (const { name, kernel } of played) {
    try {
      kernel.turn();
    } catch (error) {
      // Where the worker ended the link, its reason is on the way.
      for (let at = 0; at < 1000 && ends.length === 0; at += 1) await turn();
      throw new Error(`${name}: ${error instanceof Error ? error.message : error}; ${ends.join("; ")}`);
    }
  }
  await turn();
}

async function during<T>(waited: Promise<T>): Promise<T> {
  let done = false;
  const finished = waited.finally(() => {
    done = true;
  });
  finished.catch(() => {});
  while (!done) await turnAll();
  return finished;
}

async function forTurns(count: number): Promise<void> {
  for (let at = 0; at < count; at += 1) await turnAll();
}

async function settleAll(): Promise<void> {
  const settling = Promise.all(played.map(({ link }) => link.settle()));
  // Links that are not read yet are read once a reply would count as not sent, if unread bytes were not looked at.
  const readAt = performance.now() + 3 * STILL_MS;
  while (performance.now() < readAt && played.some(({ kernel }) => !kernel.reads)) await turnAll();
  for (const { kernel } of played) kernel.reads = true;
  const settlements = await during(settling);
  for (const [at, settlement] of settlements.entries())
    expect(settlement, `${played[at]?.name}; seed ${SEED}`).toMatchObject({ safe: true });
}

/** Gives every link to a worker; false when it died meanwhile. */
async function serveAll({ process: worker }: Started): Promise<boolean> {
  const serving = await Promise.all(played.map(({ link }) => worker.links.serve(link)));
  for (const { link, tight } of played)
    if (tight) setSocketOption(link.descriptors[0] as number, SOL_SOCKET, SO_SNDBUF, TIGHT_BYTES);
  return serving.every((serves) => serves);
}

test(
  `${KILLS} kills, ${2 * Object.keys(HABITS).length} links each, seed ${SEED}`,
  async () => {
    const chance = chances(SEED);
    played = [];
    for (const counted of [true, false])
      for (const [name, habits] of Object.entries(HABITS)) played.push(play(name, habits, counted));
    // Most of them end at a step of their own (before a store or a system call), many around a send(2).
    const startAny = (): Promise<Started> => {
      const dice = chance();
      if (dice < 0.25) return start(0);
      if (dice < 0.6) return start(1 + Math.floor(chance() ** 2 * 1500));
      return start(1 + Math.floor(chance() ** 2 * 400), "mark,send,free");
    };
    let spare = startAny();
    let kills = 0;
    /** Settles what was left, and has a worker serve everything, however many that takes. */
    const takeAll = async (): Promise<Started> => {
      for (;;) {
        const next = await during(spare);
        spare = startAny();
        await settleAll();
        const serving = serveAll(next);
        if (chance() < 0.25) {
          // While it is being given the links, or goes on with what was left.
          await forTurns(chance() * 15);
          next.process.kill();
        }
        if (await during(serving)) return next;
        kills += 1;
        await during(next.exited);
      }
    };
    let current = await takeAll();

    while (kills < KILLS) {
      await forTurns(chance() * 150);
      const dice = chance();
      if (dice < 0.15) {
        // Handed over by plan.
        const { process: worker, exited } = current;
        const released = await during(Promise.all(played.map(({ link }) => worker.links.release(link))));
        if (released.includes(false)) await during(exited);
        worker.kill();
        current = await takeAll();
      } else if (dice < 0.3) {
        // It hangs for a while: requests pile up, and whatever it sent is read.
        if (current.process.isAlive) process.kill(current.process.pid, "SIGSTOP");
        await forTurns(chance() * 50);
      } else if (dice < 0.45) {
        // No link is read for a while: the kill finds replies unread and sockets full.
        for (const { kernel } of played) kernel.reads = chance() < 0.5;
        await forTurns(chance() * 50);
      } else if (dice < 0.75) {
        // Links are not read while it ends by itself.
        for (const { kernel } of played) kernel.reads = chance() < 0.3;
        for (let turns = 0; turns < 200 && current.process.isAlive; turns += 1) await turnAll();
      }
      if (dice < 0.75 || !current.ends) current.process.kill();
      await during(current.exited);
      kills += 1;
      current = await takeAll();
    }

    const last = await during(start(0));
    current.process.kill();
    await during(current.exited);
    await settleAll();
    expect(await during(serveAll(last))).toBe(true);
    for (const { kernel } of played) kernel.asks = false;
    const drainedBy = performance.now() + DRAIN_MS;
    while (played.some(({ kernel }) => kernel.inFlight > 0) && performance.now() < drainedBy) await turnAll();
    for (const { name, kernel } of played)
      expect(kernel.inFlight, `${name}: requests that are never answered; seed ${SEED}`).toBe(0);
    expect(ends).toEqual([]);
    for (const { name, link, kernel } of played) {
      expect(kernel.answered, name).toBeGreaterThan(0);
      await until(`${name} is quiet`, () => link.isQuiet);
    }
    for (const { process: worker, exited } of [last, await spare]) {
      worker.kill();
      await exited;
    }
    for (const { link } of played) {
      link.close();
      link.closeKernelEnd();
    }
  },
  60_000 + KILLS * 10_000,
);
