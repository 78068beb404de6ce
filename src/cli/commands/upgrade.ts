/**
 * `upgrade`: replaces the running manager and workers by the installed version, while devices are read.
 *
 * The manager steps down, and the new one reattaches the workers, which go on serving. Then new workers start and take
 * over link by link. If they do not start, the old ones stay. Also used by chaos.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { ControlClient } from "../../control/client.ts";
import { lockHolder, type RunDir } from "../../control/run-dir.ts";
import { ErofsNbdError, MANAGING } from "../../errors.ts";
import { StartWatch } from "../../sys/start-watch.ts";
import { formatDuration } from "../../text/durations.ts";
import { plural } from "../../text/plural.ts";
import { VERSION } from "../../version.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { runDirOf, startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { formatJson } from "../output.ts";

interface Options {
  readonly workersOnly?: true;
  readonly json?: true;
}

/** The result of an upgrade. */
export interface Upgrade {
  readonly version: string;
  readonly managerReplaced: boolean;
  readonly workers: number;
  readonly links: number;
  readonly longestStallMs: number;
}

/**
 * Time in which the service must start a process that locks the run directory. From then on only its progress counts.
 */
const RESTARTED_MS = 15_000;
const POLL_MS = 50;

const HELP = `
Examples:
  sudo npm install -g erofs-nbd && sudo erofs-nbd upgrade
  sudo erofs-nbd upgrade --workers-only

Reads wait for a few milliseconds per device. If the new workers do not start, the old ones stay and the exit
code is 2.`;

export function define(command: Command, context: CliContext): void {
  command
    .option("--workers-only", "leave the manager as it is")
    .option("--json", "print the result as an object")
    .addHelpText("after", HELP)
    .action((options: Options) => run(context, options));
}

async function run(context: CliContext, options: Options): Promise<void> {
  requireRoot(MANAGING);
  const done = await upgrade(context, options.workersOnly === true);
  if (options.json) return context.print(formatJson(done));
  const replaced = `${done.managerReplaced ? "manager and " : ""}${done.workers} workers`;
  const links = plural(done.links, "link");
  const stall = formatDuration(done.longestStallMs);
  await context.print(
    `replaced ${replaced} by version ${done.version}: ${links} handed over, the longest in ${stall}`,
  );
}

/** @throws ErofsNbdError, ControlError */
export async function upgrade(context: CliContext, workersOnly: boolean): Promise<Upgrade> {
  const running = await ControlClient.connect(runDirOf(context));
  if (running === undefined) {
    throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot upgrade: no manager is running", {
      hint: "nothing is attached, and the next attach uses the installed version",
    });
  }
  const client = workersOnly ? running : await replaceManager(context, running);
  try {
    const { version } = await client.request("hello", {});
    return { version, managerReplaced: !workersOnly, ...(await client.request("renew", {})) };
  } finally {
    client.close();
  }
}

/** Replaces the running manager. If it is run by the service, the service starts the new one. */
async function replaceManager(context: CliContext, running: ControlClient): Promise<ControlClient> {
  const runDir = runDirOf(context);
  const { pid, version } = await running.request("hello", {});
  context.detail(`manager ${pid} of version ${version} steps down for version ${VERSION}`);
  const { auto } = await running.request("stepDown", {});
  running.close();
  await untilGone(pid);
  const client = auto ? undefined : await findRestarted(runDir);
  if (client !== undefined) return client;
  if (!auto) context.note("the service did not restart its manager: starting one");
  return startManager(context);
}

/**
 * Waits for the end of a manager that steps down. @throws ErofsNbdError ERR_CONTROL if it hangs and so keeps the run
 * directory
 */
async function untilGone(pid: number): Promise<void> {
  const watch = new StartWatch(pid, "manager");
  while (isAlive(pid)) {
    const trouble = watch.look();
    if (trouble !== undefined) {
      throw new ErofsNbdError("ERR_CONTROL", `cannot upgrade: the manager, process ${pid}, ${trouble}`, {
        hint: `end it with 'kill -KILL ${pid}' and upgrade again: devices stay attached`,
      });
    }
    await sleep(POLL_MS);
  }
}

/** The manager that the service restarts; undefined if no process locks the run directory in time, or if it hangs. */
async function findRestarted(runDir: RunDir): Promise<ControlClient | undefined> {
  let absentSinceMs = performance.now();
  let watch: StartWatch | undefined;
  while (performance.now() - absentSinceMs < RESTARTED_MS) {
    const client = await ControlClient.connect(runDir);
    if (client !== undefined) return client;
    const holder = lockHolder(runDir);
    if (holder !== undefined) {
      absentSinceMs = performance.now();
      if (watch?.pid !== holder) watch = new StartWatch(holder, "manager");
      if (watch.look() !== undefined) return undefined;
    }
    await sleep(POLL_MS);
  }
  return undefined;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
