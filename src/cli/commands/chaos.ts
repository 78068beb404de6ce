/**
 * `chaos`: the user's own stack put to the test: options read, the engine run, its findings printed and written.
 *
 * Everything about faults is in src/chaos; here are words and exit codes. Ends with 2 when anything was wrong, with 8
 * when it was interrupted and nothing was.
 */
import { accessSync, constants, statSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { type Command, Option } from "commander";
import { type ChaosOptions, runChaos } from "../../chaos/engine.ts";
import { Progress } from "../../chaos/progress.ts";
import type { ChaosRun, FaultKind } from "../../chaos/run.ts";
import { FAULT_KINDS, MAX_SEED } from "../../chaos/schedule.ts";
import { formatSummary } from "../../chaos/summary.ts";
import { readTarget } from "../../control/target.ts";
import { ErofsNbdError, EXIT, invalidValue } from "../../errors.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { findManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { formatJson } from "../output.ts";
import { readWhole } from "../values.ts";
import { upgrade } from "./upgrade.ts";

interface Options {
  readonly kills: string;
  readonly interval: string;
  readonly what: string;
  readonly seed?: string;
  readonly depth: string;
  readonly large?: string;
  readonly baseline: string;
  readonly deadline: string;
  readonly report?: string;
  readonly json?: true;
}

const DEFAULTS = {
  kills: "20",
  interval: "1000",
  what: "worker,hang,link,manager,both,upgrade",
  depth: "8",
  baseline: "3000",
  deadline: "60",
} as const;

const MAX_KILLS = 1_000_000;
const MAX_INTERVAL_MS = 3_600_000;
/** Each is a thread of the reader. */
const MAX_DEPTH = 256;
const MIN_BASELINE_MS = 2000;

const HELP = `
TARGET is an attached device (nbd3, /dev/nbd3 or 3), its image, or its mount point. What else reads the device may go
on. A worker or manager that serves other devices, too, is killed all the same: those see a failover as well.

Faults (--what), each kind once before any comes twice:
  worker     SIGKILL to the worker that serves the device
  hang       SIGSTOP to it; the manager has to notice
  link       the manager shuts the device's sockets down
  manager    SIGKILL to the manager; the next question starts another
  both       SIGKILL to manager and worker together
  upgrade    manager and workers are replaced as erofs-nbd upgrade does

A reader keeps reads going past the page cache, small ones anywhere and large ones from beginning to end, and compares
every byte with the image. A fault comes only while reads are on the wire. The next one comes when the outcome of the
last is there and reads flow again, after 0.5 to 1.5 times the interval. The same seed is the same plan.

What must come of a fault, by the counters of status and by failover events, which must agree:
  worker, hang, both    exactly one failover, takeover or reconnect
  link                  exactly one reconnect
  manager               none while the same workers serve on, or links are handed over; exactly one otherwise
  upgrade               none; every link is handed over
With several links, at least one and at most one for each link that was hit. Any other failover, a failed one, or a read
that was answered with an error is a problem, and so is a failover between two faults.

Examples:
  sudo erofs-nbd chaos /mnt
  sudo erofs-nbd chaos nbd0 --kills 200 --what worker --interval 300
  sudo erofs-nbd chaos image.erofs --kills 100 --report chaos.html
  sudo erofs-nbd chaos nbd0 --seed 4711 --json

Ends with 0 when every byte was right and every account added up; with 2 otherwise; with 8 after Ctrl-C, which tells
what was and leaves nothing behind. A wrong byte, a failed read or a missing outcome ends the run at once.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<TARGET>", "the device to put to the test")
    .addOption(withDefault("--kills <N>", "how many faults", DEFAULTS.kills))
    .addOption(withDefault("--interval <MS>", "mean pause between two faults", DEFAULTS.interval))
    .addOption(withDefault("--what <KINDS>", "kinds of faults, separated by commas", DEFAULTS.what))
    .option("--seed <N>", `plan and reads, 0 to ${MAX_SEED} (default: any; it is printed)`)
    .addOption(withDefault("--depth <N>", "reads kept going", DEFAULTS.depth))
    .option(
      "--large <N>",
      "how many of them are 1 MiB in order, the rest 4 KiB anywhere (default: a quarter)",
    )
    .addOption(withDefault("--baseline <MS>", "time to measure before the first fault", DEFAULTS.baseline))
    .addOption(withDefault("--deadline <SECONDS>", "how long a fault may take to be over", DEFAULTS.deadline))
    .option("--report <FILE>", "write one HTML page with everything")
    .option("--json", "print the whole run as JSON instead of the summary")
    .addHelpText("after", HELP)
    .action((target: string, options: Options) => run(context, target, options));
}

/** commander would print the default in quotes. */
function withDefault(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value, value);
}

async function run(context: CliContext, word: string, options: Options): Promise<void> {
  const wanted = await readChaosOptions(word, options);
  const reportPath = options.report === undefined ? undefined : checkReportPath(options.report);
  requireRoot();
  const progress = new Progress(process.stderr);
  const interrupted = context.interrupts.remember("ending the run");
  let found: ChaosRun;
  try {
    progress.say(`seed ${wanted.seed}: ${wanted.kills} faults (${wanted.what.join(", ")}) on ${word}`);
    found = await runChaos(wanted, {
      connect: () => findManager(context),
      upgrade: async () => (await upgrade(context, false)).longestStallMs,
      progress,
      interrupted: interrupted.signal,
    });
  } finally {
    progress.close();
    interrupted.release();
  }
  await context.print(options.json ? formatJson(found) : formatSummary(found, interrupted.signal.aborted));
  if (reportPath !== undefined) await writeReport(reportPath, found);
  if (found.verdict === "failed") context.exitCode = EXIT.system;
  else interrupted.check("finish the run");
}

/** @throws ErofsNbdError ERR_BAD_ARGUMENT */
export async function readChaosOptions(word: string, options: Options): Promise<ChaosOptions> {
  const depth = readWhole("--depth", options.depth, 1, MAX_DEPTH);
  const quarter = depth === 1 ? 0 : Math.max(1, Math.floor(depth / 4));
  return {
    target: await readTarget(word),
    kills: readWhole("--kills", options.kills, 1, MAX_KILLS),
    intervalMs: readWhole("--interval", options.interval, 0, MAX_INTERVAL_MS),
    what: readKinds(options.what),
    seed:
      options.seed === undefined
        ? Math.floor(Math.random() * (MAX_SEED + 1))
        : readWhole("--seed", options.seed, 0, MAX_SEED),
    depth,
    largeSlots: options.large === undefined ? quarter : readWhole("--large", options.large, 0, depth),
    baselineMs: readWhole("--baseline", options.baseline, MIN_BASELINE_MS, MAX_INTERVAL_MS),
    deadlineMs: readWhole("--deadline", options.deadline, 1, MAX_INTERVAL_MS / 1000) * 1000,
  };
}

/** In our order, without repetition. @throws ErofsNbdError ERR_BAD_ARGUMENT */
function readKinds(text: string): FaultKind[] {
  const words = text.split(",").map((word) => word.trim());
  for (const word of words) {
    if (!FAULT_KINDS.some((kind) => kind === word))
      throw invalidValue("--what", word, `a comma-separated list of ${FAULT_KINDS.join(", ")}`);
  }
  return FAULT_KINDS.filter((kind) => words.includes(kind));
}

/** Whether a file can be made there is found out before the run, not after it. @throws ErofsNbdError ERR_BAD_ARGUMENT */
function checkReportPath(text: string): string {
  const path = resolve(text);
  try {
    if (text === "" || statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw new Error("it is no file name");
    accessSync(dirname(path), constants.W_OK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot write a report to ${path}: ${code ?? message}`, {
      hint: "name a file in a directory that is there and can be written",
    });
  }
  return path;
}

async function writeReport(path: string, found: ChaosRun): Promise<void> {
  const { renderReport } = await import("../../chaos/report/report.ts");
  writeFileSync(path, renderReport(found));
}
