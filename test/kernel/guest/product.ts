/**
 * The product as its user has it: the built command line, its devices, its processes; and readers that check it.
 *
 * Everything goes through `dist/`, as after an installation. Waiting is always for a state, with a deadline.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect } from "vitest";
import { ControlClient } from "../../../src/control/client.ts";
import type { DeviceStatus, Method, Requests } from "../../../src/control/protocol.ts";
import { greet } from "../../../src/control/reach/reach-manager.ts";
import { connectOrStart } from "../../../src/control/reach/start-manager.ts";
import { chooseRunDir } from "../../../src/control/run-dir.ts";
import { LIMITS } from "../../limits.mjs";
import { endObservers } from "./observers.ts";
import { allGone, allWorkers, isAlive, standstill } from "./processes.ts";
import { until, untilAsync } from "./until.ts";

export {
  expectFlawless,
  type Reader,
  type ReaderReport,
  startReader,
  type Watcher,
  watchEvents,
} from "./observers.ts";

export {
  allGone,
  allWorkers,
  bothWorkersOf,
  guardiansOf,
  isAlive,
  killTogether,
  killUnderLoad,
  managerPids,
  readsInFlight,
  workerOf,
  workersOf,
} from "./processes.ts";
export { until, untilAsync } from "./until.ts";

export const CLI: string = fileURLToPath(new URL("../../../dist/src/cli/main.cjs", import.meta.url));

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
  return { code, stdout, stderr: withoutWaiting(stderr) };
}

/** What a command says that has to wait on a busy machine is no news here. */
export function withoutWaiting(stderr: string): string {
  return stderr.replace(/^erofs-nbd: waiting for .*\n/gm, "");
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

/** One request to the manager that runs; undefined when none does. */
export async function ask<M extends Method>(
  method: M,
  params: Requests[M]["params"],
): Promise<Requests[M]["result"] | undefined> {
  const client = await ControlClient.connect(chooseRunDir(undefined));
  if (client === undefined) return undefined;
  try {
    return await client.request(method, params);
  } finally {
    client.close();
  }
}

/**
 * A manager that stays as long as the connection: the one that runs, or one that is started. One that is just ending
 * does not count.
 */
export async function reach(): Promise<ControlClient> {
  const runDir = chooseRunDir(undefined);
  for (;;) {
    const client = await greet(runDir, await connectOrStart(runDir, { program: CLI }));
    if (client !== undefined) return client;
  }
}

/** Cuts every link of a device, as if its socket had died under manager and workers: what is left is level 2. */
export async function cutLinks(index: number): Promise<void> {
  expect(await ask("cutLinks", { index }), "no manager runs").toBeDefined();
}

/**
 * Cuts a device's links while reads are surely on the wire: the worker is stopped first, so that they pile up. Returns
 * how many were in flight at the cut.
 */
export async function cutUnderLoad(device: DeviceStatus): Promise<number> {
  const workers = new Set(device.links.map(({ workerPid }) => workerPid));
  for (const pid of workers) process.kill(pid, "SIGSTOP");
  const inFlight = await standstill(device.index ?? -1);
  await cutLinks(device.index ?? -1);
  for (const pid of workers) process.kill(pid, "SIGCONT");
  return inFlight;
}

/** All devices; none when no manager runs. */
export async function statuses(): Promise<readonly DeviceStatus[]> {
  return (await ask("status", { target: null }))?.devices ?? [];
}

/** Asks for the status until it is as wanted. */
export async function statusWhen(
  target: string,
  what: string,
  wanted: (status: DeviceStatus) => boolean,
  deadlineMs: number = LIMITS.stepMs,
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

/** Waits for a manager that answers and is not that one, which dies; no command is given. Returns the manager's pid. */
export async function successorOf(managerPid: number, deadlineMs: number = LIMITS.stepMs): Promise<number> {
  await until("the death", () => !isAlive(managerPid));
  let pid = managerPid;
  await untilAsync(
    "a successor",
    async () => {
      pid = (await ask("hello", {}).catch(() => undefined))?.pid ?? managerPid;
      return pid !== managerPid;
    },
    deadlineMs,
  );
  return pid;
}

/** Detaches everything and waits until nothing of ours runs any more. */
export async function detachAll(): Promise<void> {
  const managers = new Set((await statuses()).map((device) => device.managerPid));
  const served = allWorkers();
  await erofsNbdOk("detach", "--all");
  await allGone([...managers, ...served]);
}

/** Call after `guarded`: a test that fails midway shows the manager's log, and does not fail the tests after it. */
export function cleanUpAfterFailure(): void {
  let logStart = 0;
  const log = "/run/erofs-nbd/manager.log";
  beforeEach(() => {
    logStart = existsSync(log) ? statSync(log).size : 0;
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail" && existsSync(log)) {
      process.stderr.write(
        `manager.log of "${context.task.name}":\n${readFileSync(log).subarray(logStart).toString()}\n`,
      );
    }
    endObservers();
    const records = "/run/erofs-nbd/devices";
    if (existsSync(records) && readdirSync(records).length > 0) await erofsNbd("detach", "--all", "--force");
  });
}
