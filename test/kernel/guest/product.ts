/**
 * The product as its user has it: the built command line, its devices, its processes; and readers that check it.
 *
 * Everything goes through `dist/`, as after an installation. Waiting is always for a state, with a deadline.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect } from "vitest";
import { ControlClient } from "../../../src/manager/control-client.ts";
import type { DeviceEvent, DeviceStatus } from "../../../src/manager/control-protocol.ts";
import { chooseRunDir } from "../../../src/manager/run-dir.ts";

export const CLI: string = fileURLToPath(new URL("../../../dist/src/cli/main.js", import.meta.url));
const READER = fileURLToPath(new URL("../../helpers/direct-reader.mjs", import.meta.url));

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end and returns what it said. */
export async function run(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<CommandResult> {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, stdout, stderr };
}

/** Runs `erofs-nbd ARGS`. */
export const erofsNbd = (...args: string[]): Promise<CommandResult> => run(process.execPath, [CLI, ...args]);

/** Runs it and expects it to succeed; returns its stdout without the last newline. */
export async function erofsNbdOk(...args: string[]): Promise<string> {
  const result = await erofsNbd(...args);
  expect(result, `erofs-nbd ${args.join(" ")}: ${result.stderr}`).toMatchObject({ code: 0 });
  return result.stdout.trimEnd();
}

/** Attaches an image and returns the device's status. */
export async function attach(...args: string[]): Promise<DeviceStatus> {
  return JSON.parse(await erofsNbdOk("attach", "--json", ...args)) as DeviceStatus;
}

/** Asks the manager over its control socket, which is quicker than a command each time. */
export async function status(target: string): Promise<DeviceStatus> {
  const device = (await statuses()).find((one) => one.device === target);
  if (device === undefined) throw new Error(`${target} is not attached`);
  return device;
}

/** All devices; none when no manager runs. */
export async function statuses(): Promise<readonly DeviceStatus[]> {
  const client = await ControlClient.connect(chooseRunDir(undefined));
  if (client === undefined) return [];
  try {
    return (await client.request("status", { target: null })).devices;
  } finally {
    client.close();
  }
}

/** Asks for the status until it is as wanted. */
export async function statusWhen(
  target: string,
  what: string,
  wanted: (status: DeviceStatus) => boolean,
  deadlineMs = 30_000,
): Promise<DeviceStatus> {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const now = await status(target);
    if (wanted(now)) return now;
    await delay(20);
    if (Date.now() > end)
      throw new Error(`${what} did not happen in ${deadlineMs} ms: ${JSON.stringify(now)}`);
  }
}

/** The outcome of the failover numbered `count`, once it has been reported. */
export async function afterFailovers(target: string, count: number): Promise<DeviceStatus> {
  const failovers = ({ counters }: DeviceStatus): number =>
    counters.reconnects + counters.takeovers + counters.failedFailovers;
  return statusWhen(target, `failover ${count}`, (now) => failovers(now) >= count && now.state === "serving");
}

/** Waits until a condition holds. */
export async function until(what: string, condition: () => boolean, deadlineMs = 20_000): Promise<void> {
  await untilAsync(what, async () => condition(), deadlineMs, 5);
}

/** Waits until a condition holds that takes asking. */
export async function untilAsync(
  what: string,
  condition: () => Promise<boolean>,
  deadlineMs = 20_000,
  pauseMs = 50,
): Promise<void> {
  const end = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`${what} did not happen in ${deadlineMs} ms`);
    await delay(pauseMs);
  }
}

export const readsInFlight = (index: number): number =>
  Number(readFileSync(`/sys/block/nbd${index}/inflight`, "utf8").trim().split(/\s+/)[0]);

/** Whether a process is there; a zombie is not. */
export function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** Pid of the worker behind link 0. */
export function workerOf(device: DeviceStatus): number {
  const pid = device.links[0]?.workerPid;
  if (pid === undefined) throw new Error(`No worker in ${JSON.stringify(device)}`);
  return pid;
}

/**
 * Kills processes while reads are surely on the wire of the device: the worker is stopped first, and the reads that
 * come in meanwhile fill the queue up to the readers' depth. Returns how many were in flight at the kill.
 */
export async function killUnderLoad(
  device: DeviceStatus,
  depth: number,
  victims: readonly number[] = [workerOf(device)],
): Promise<number> {
  const index = device.index ?? -1;
  for (const pid of victims) process.kill(pid, "SIGSTOP");
  await until(`${depth} reads in flight`, () => readsInFlight(index) >= depth);
  const inFlight = readsInFlight(index);
  for (const pid of victims) process.kill(pid, "SIGKILL");
  expect(inFlight).toBeGreaterThan(0);
  return inFlight;
}

export interface ReaderReport {
  readonly reads: number;
  readonly errors: number;
  readonly mismatches: number;
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

export async function startReader(
  device: string,
  image: string,
  depth = 8,
  blockBytes = 4096,
): Promise<Reader> {
  const child: ChildProcess = spawn(process.execPath, [READER, device, image, `${depth}`, `${blockBytes}`], {
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

/** Waits until no manager, worker or client of ours runs any more: an automatic manager leaves with its last device. */
export async function allGone(pids: readonly number[]): Promise<void> {
  await until(`the end of ${pids.join(", ")}`, () => pids.every((pid) => !isAlive(pid)));
}

/** Pids of a manager's workers: its children that are not about to end. */
export function workersOf(managerPid: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
        const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return Number(parent) === managerPid && state !== "Z" && stat.includes("(erofs-nbd worke");
      } catch {
        return false;
      }
    });
}

/** Managers that run, or are just being started. */
export function managerPids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("cli/main.js\0manager\0");
      } catch {
        return false;
      }
    });
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
    next: async (what, fits, deadlineMs = 30_000) => {
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

/** Detaches everything and waits until nothing of ours runs any more. */
export async function detachAll(): Promise<void> {
  const managers = [...new Set((await statuses()).map((device) => device.managerPid))];
  const workers = managers.flatMap(workersOf);
  await erofsNbdOk("detach", "--all");
  await allGone([...managers, ...workers]);
}

/** Readers and watchers at work; a test that fails leaves some. */
const running = new Set<ChildProcess>();

/** Call after `guarded`: a test that failed in the middle shows the manager's log, and must not fail those behind it. */
export function cleanUpAfterFailure(): void {
  let logStart = 0;
  const log = "/run/erofs-nbd/manager.log";
  beforeEach(() => {
    logStart = existsSync(log) ? statSync(log).size : 0;
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail" && existsSync(log)) {
      process.stderr.write(
        `manager.log of «${context.task.name}»:\n${readFileSync(log).subarray(logStart).toString()}\n`,
      );
    }
    for (const child of running) child.kill("SIGKILL");
    running.clear();
    const records = "/run/erofs-nbd/devices";
    if (existsSync(records) && readdirSync(records).length > 0) await erofsNbd("detach", "--all", "--force");
  });
}
