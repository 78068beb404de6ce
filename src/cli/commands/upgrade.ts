/**
 * `upgrade`: everything that runs is replaced by what is installed, while devices are read.
 *
 * First the manager: it steps down, this version's starts and meets the workers again, which never stopped serving.
 * Then the workers: fresh ones are started, and take over link by link. What does not start leaves what runs as it
 * is.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { ControlClient } from "../../control/client.ts";
import { lockHolder, type RunDir } from "../../control/run-dir.ts";
import { ErofsNbdError } from "../../errors.ts";
import { StartWatch } from "../../sys/start-watch.ts";
import { VERSION } from "../../version.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { runDirOf, startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { formatDuration, formatJson } from "../output.ts";

interface Options {
  readonly workersOnly?: true;
  readonly json?: true;
}

/** What an upgrade has done. */
export interface Upgrade {
  readonly version: string;
  readonly managerReplaced: boolean;
  readonly workers: number;
  readonly links: number;
  readonly longestStallMs: number;
}

/** How long a service may take to start a process that takes the run directory; how long that takes then is its own affair. */
const RESTARTED_MS = 15_000;
const POLL_MS = 50;

const HELP = `
Examples:
  sudo npm install -g erofs-nbd && sudo erofs-nbd upgrade
  sudo erofs-nbd upgrade --workers-only

Reads wait for milliseconds per device. When the new workers do not start, the old ones serve on, and the exit code is 2.`;

export function define(command: Command, context: CliContext): void {
  command
    .option("--workers-only", "leave the manager as it is")
    .option("--json", "print what was done as an object")
    .addHelpText("after", HELP)
    .action((options: Options) => run(context, options));
}

async function run(context: CliContext, options: Options): Promise<void> {
  requireRoot();
  const done = await upgrade(context, options.workersOnly === true);
  if (options.json) return context.print(formatJson(done));
  const manager = done.managerReplaced ? "manager and " : "";
  const links = `${done.links} link${done.links === 1 ? "" : "s"}`;
  const stall = formatDuration(done.longestStallMs);
  await context.print(
    `replaced ${manager}${done.workers} workers by version ${done.version}: ${links} handed over, the longest in ${stall}`,
  );
}

/** @throws ErofsNbdError, ControlError */
export async function upgrade(context: CliContext, workersOnly: boolean): Promise<Upgrade> {
  const running = await ControlClient.connect(runDirOf(context));
  if (running === undefined) {
    throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot upgrade: no manager runs", {
      hint: "nothing is attached, and the next attach uses the installed version anyway",
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

/** Another manager in the place of the one that runs. One that a service runs is started again by it. */
async function replaceManager(context: CliContext, running: ControlClient): Promise<ControlClient> {
  const runDir = runDirOf(context);
  const { pid, version } = await running.request("hello", {});
  context.detail(`manager ${pid} of version ${version} makes way for version ${VERSION}`);
  const { auto } = await running.request("stepDown", {});
  running.close();
  await untilGone(pid);
  const client = auto ? undefined : await findRestarted(runDir);
  if (client !== undefined) return client;
  if (!auto) context.note("the service did not start its manager again: starting one");
  return startManager(context);
}

/** It has said that it ends. @throws ErofsNbdError ERR_CONTROL when it hangs instead: its successor could not have the run directory */
async function untilGone(pid: number): Promise<void> {
  const watch = new StartWatch(pid, "manager");
  while (isAlive(pid)) {
    const trouble = watch.look();
    if (trouble !== undefined) {
      throw new ErofsNbdError("ERR_CONTROL", `cannot upgrade: the manager, process ${pid}, ${trouble}`, {
        hint: `end it with 'kill -KILL ${pid}' and upgrade again: devices stay`,
      });
    }
    await sleep(POLL_MS);
  }
}

/** The manager that the service starts again; undefined: no process has taken the run directory in time, or it hangs. */
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
