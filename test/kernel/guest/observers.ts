/**
 * What watches a device while a test kills its workers and managers: readers that check every byte, and the events of
 * its manager.
 *
 * Tests get these through product.ts. Each is a process of its own: a reader may wait in the kernel where no signal
 * reaches it. `endObservers` ends what a failed test left.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import type { DeviceEvent } from "../../../src/control/protocol.ts";
import { LIMITS } from "../../limits.mjs";

const CLI = fileURLToPath(new URL("../../../dist/src/cli/main.cjs", import.meta.url));
const READER = fileURLToPath(new URL("../../helpers/images/direct-reader.mjs", import.meta.url));

/** At work; a test that fails leaves some. */
const running = new Set<ChildProcess>();

/** Ends the observers that still run. */
export function endObservers(): void {
  for (const child of running) child.kill("SIGKILL");
  running.clear();
}

export interface ReaderReport {
  readonly reads: number;
  readonly errors: number;
  /** Of other bytes than the image's, or fewer than were asked for. */
  readonly mismatches: number;
  /** Of other bytes than the image's. */
  readonly wrong: number;
  readonly firstError: string;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly longestMs: number;
}

/** A reader at work; see direct-reader.mjs. */
export interface Reader {
  readonly depth: number;
  /** Ends it and returns what it saw. */
  stop(): Promise<ReaderReport>;
}

/**
 * Starts a reader of a device and returns when it reads.
 * @param blocks how long each read is, or "MIN-MAX" for lengths in between
 */
export async function startReader(
  device: string,
  image: string,
  depth = 8,
  blocks: number | `${number}-${number}` = 4096,
  order: "random" | "sequential" = "random",
): Promise<Reader> {
  const words = [READER, device, image, `${depth}`, `${blocks}`, "1000", order];
  const child: ChildProcess = spawn(process.execPath, words, {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, UV_THREADPOOL_SIZE: `${depth}` },
  });
  running.add(child);
  child.once("close", () => running.delete(child));
  if (child.stdout === null || child.stdin === null) throw new Error("The reader has no pipes");
  const { stdin } = child;
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  expect((await lines.next()).value).toBe("reading");
  return {
    depth,
    stop: async () => {
      stdin.end();
      const line = (await lines.next()) as { value: string };
      await once(child, "close");
      return JSON.parse(line.value) as ReaderReport;
    },
  };
}

/** No error and not one wrong byte, and it did read. */
export function expectFlawless(report: ReaderReport): void {
  expect(report).toMatchObject({ errors: 0, mismatches: 0 });
  expect(report.reads).toBeGreaterThan(0);
}

/** What `status --watch --json` has told so far. */
export interface Watcher {
  readonly events: readonly DeviceEvent[];
  /** The next event, from now on, that fits. */
  next(what: string, fits: (event: DeviceEvent) => boolean, deadlineMs?: number): Promise<DeviceEvent>;
  stop(): Promise<void>;
}

/** Follows a manager's events. Returns when the watch is established. */
export async function watchEvents(): Promise<Watcher> {
  const child = spawn(process.execPath, [CLI, "status", "--watch", "--json"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  running.add(child);
  child.once("close", () => running.delete(child));
  const events: DeviceEvent[] = [];
  let wake = (): void => {};
  let started = (): void => {};
  const first = new Promise<void>((resolve) => {
    started = resolve;
  });
  createInterface(child.stdout).on("line", (line) => {
    const event = JSON.parse(line) as DeviceEvent;
    started();
    events.push(event);
    wake();
  });
  await first;
  return {
    events,
    next: async (what, fits, deadlineMs = LIMITS.stepMs) => {
      const end = Date.now() + deadlineMs;
      for (let at = events.length; ; at += 1) {
        while (events.length <= at) {
          if (Date.now() > end)
            throw new Error(
              `${what} did not happen in ${deadlineMs} ms: ${JSON.stringify(events.slice(-10))}`,
            );
          await Promise.race([
            new Promise<void>((resolve) => {
              wake = resolve;
            }),
            delay(200),
          ]);
        }
        const event = events[at];
        if (event !== undefined && fits(event)) return event;
      }
    },
    stop: async () => {
      child.kill("SIGINT");
      await once(child, "close");
    },
  };
}
