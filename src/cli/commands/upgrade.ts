/**
 * `upgrade`: everything that runs is replaced by what is installed, while devices are read.
 *
 * First the manager: it steps down, this version's starts and meets the workers again, which never stopped serving. Then the
 * workers: fresh ones are started, and take over link by link. What does not start leaves what runs as it is.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { ErofsNbdError } from "../../errors.ts";
import { ControlClient } from "../../manager/control-client.ts";
import { VERSION } from "../../version.ts";
import { runDirOf, startManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { formatDuration, formatJson } from "../output.ts";
import { requireRoot } from "../preconditions.ts";

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

/** How long a manager may take to be gone, and a service to start it again. */
const GONE_MS = 5000;
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
  requireRoot("upgrade");
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
    throw new ErofsNbdError("ERR_NOT_ATTACHED", "Cannot upgrade: no manager runs", {
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
  const goneBy = performance.now() + GONE_MS;
  while (isAlive(pid) && performance.now() < goneBy) await sleep(POLL_MS);
  const restartedBy = performance.now() + RESTARTED_MS;
  while (!auto && performance.now() < restartedBy) {
    const client = await ControlClient.connect(runDir);
    if (client !== undefined) return client;
    await sleep(POLL_MS);
  }
  if (!auto) context.note("the service did not start its manager again: starting one");
  return startManager(context);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
