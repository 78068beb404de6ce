/**
 * `chaos`: parses the options, runs the fault injection of src/chaos, prints the summary and writes the report.
 *
 * Exit code 5 if the run found a fault, 8 if it was interrupted without one.
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
import { ErofsNbdError, EXIT, invalidValue, MANAGING } from "../../errors.ts";
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
/** Each read in flight is a thread of the reader. */
const MAX_DEPTH = 256;
const MIN_BASELINE_MS = 2000;

const HELP = `
TARGET is an attached device (nbd3, /dev/nbd3 or 3), its image, or its mount point. Other readers of the device may
continue. Workers and managers that also serve other devices are killed, too, so those devices see a failover as well.

Faults (--what), each kind once before any is repeated:
  worker     SIGKILL to the worker that serves the device
  hang       SIGSTOP to the worker; the manager must detect the hang
  link       the manager shuts down the device's sockets
  manager    SIGKILL to the manager; the next request starts another
  both       SIGKILL to manager and worker together
  upgrade    manager and workers are replaced as by erofs-nbd upgrade

A reader keeps direct reads in flight, small ones at random offsets and large ones in sequence, and compares every byte
with the image. A fault is injected only while reads are in flight. The next one follows after the outcome of the last
is known and reads make progress again, after 0.5 to 1.5 times the interval. The same seed gives the same plan.

Expected outcome of a fault, by the counters of status and by failover events, which must agree:
  worker, hang, both    exactly one failover, takeover or reconnect
  link                  exactly one reconnect
  manager               none while the same workers go on, or links are handed over; exactly one otherwise
  upgrade               none; every link is handed over
With several links, at least one failover, and at most one for each link that was hit. Any other failover, a failed one,
a read error, or a failover between two faults is a problem.

Examples:
  sudo erofs-nbd chaos /mnt
  sudo erofs-nbd chaos nbd0 --kills 200 --what worker --interval 300
  sudo erofs-nbd chaos image.erofs --kills 100 --report chaos.html
  sudo erofs-nbd chaos nbd0 --seed 4711 --json

Exit code 0 when every byte and every outcome was as expected, 5 otherwise, 8 after Ctrl-C, which prints the results so
far and leaves nothing behind. A wrong byte, a failed read or a missing outcome ends the run at once.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<TARGET>", "the device to test")
    .addOption(withDefault("--kills <N>", "number of faults", DEFAULTS.kills))
    .addOption(withDefault("--interval <MS>", "mean pause between two faults", DEFAULTS.interval))
    .addOption(withDefault("--what <KINDS>", "kinds of faults, comma-separated", DEFAULTS.what))
    .option("--seed <N>", `seed of the plan and the reads, 0 to ${MAX_SEED} (default: random; it is printed)`)
    .addOption(withDefault("--depth <N>", "reads in flight", DEFAULTS.depth))
    .option(
      "--large <N>",
      "how many of them are 1 MiB in sequence, the rest 4 KiB at random (default: a quarter)",
    )
    .addOption(
      withDefault("--baseline <MS>", "time of measurement before the first fault", DEFAULTS.baseline),
    )
    .addOption(
      withDefault("--deadline <SECONDS>", "time limit for the outcome of a fault", DEFAULTS.deadline),
    )
    .option("--report <FILE>", "write a report as one HTML page")
    .option("--json", "print the whole run as JSON instead of the summary")
    .addHelpText("after", HELP)
    .action((target: string, options: Options) => run(context, target, options));
}

/** Commander would print the default in quotes. */
function withDefault(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value, value);
}

async function run(context: CliContext, word: string, options: Options): Promise<void> {
  const wanted = await readChaosOptions(word, options);
  const reportPath = options.report === undefined ? undefined : checkReportPath(options.report);
  requireRoot(MANAGING);
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
  if (found.verdict === "failed") context.exitCode = EXIT.chaosFailed;
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

/** In the order of FAULT_KINDS, without duplicates. @throws ErofsNbdError ERR_BAD_ARGUMENT */
function readKinds(text: string): FaultKind[] {
  const words = text.split(",").map((word) => word.trim());
  for (const word of words) {
    if (!FAULT_KINDS.some((kind) => kind === word))
      throw invalidValue("--what", word, `a comma-separated list of ${FAULT_KINDS.join(", ")}`);
  }
  return FAULT_KINDS.filter((kind) => words.includes(kind));
}

/** Checks before the run that the report can be written. @throws ErofsNbdError ERR_BAD_ARGUMENT */
function checkReportPath(text: string): string {
  const path = resolve(text);
  try {
    if (text === "" || statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw new Error("it is not a file name");
    accessSync(dirname(path), constants.W_OK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot write a report to ${path}: ${code ?? message}`, {
      hint: "name a file in an existing, writable directory",
    });
  }
  return path;
}

async function writeReport(path: string, found: ChaosRun): Promise<void> {
  const { renderReport } = await import("../../chaos/report/report.ts");
  writeFileSync(path, renderReport(found));
}
