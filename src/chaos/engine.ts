/**
 * One chaos run, from the first look at the device to the last result: baseline, faults one after the other, end.
 *
 * Called by the command. Runs the plan, waits after each fault until its outcome is known and reads make progress
 * again, and checks the outcome before the next fault. A wrong byte, a failed read or a missing outcome ends the run; a
 * mismatch of counters and events is recorded, and the run continues. No matter how it ends, no reader and no stopped
 * process is left.
 */
import type { DeviceStatus, Target } from "../control/protocol.ts";
import { ErofsNbdError, isCoded } from "../errors.ts";
import { devicePath, readsInFlight } from "../kernel/sysfs.ts";
import { type Connect, DeviceWatch } from "./device-watch.ts";
import { FaultRun } from "./faults/fault-run.ts";
import type { Upgrade } from "./faults/faults.ts";
import { Victims } from "./faults/victims.ts";
import type { Progress } from "./progress.ts";
import { Reader } from "./reader/reader.ts";
import { monotonicMs, type ReaderStart } from "./reader/reader-protocol.ts";
import type { ChaosRun, FaultKind } from "./run.ts";
import { RunLog } from "./run-log.ts";
import { planFaults } from "./schedule.ts";
import { describeFault, formatMs } from "./summary.ts";
import { SPAN_MS } from "./timeline.ts";
import { Halted, pause } from "./waiting.ts";

export interface ChaosOptions {
  readonly target: Target;
  readonly kills: number;
  readonly intervalMs: number;
  readonly what: readonly FaultKind[];
  readonly seed: number;
  /** Reads kept going, and how many of them are large and in order. */
  readonly depth: number;
  readonly largeSlots: number;
  /** How long reads are measured before the first fault. */
  readonly baselineMs: number;
  /** Time limit for the outcome of a fault. */
  readonly deadlineMs: number;
}

export interface ChaosSurroundings {
  readonly connect: Connect;
  readonly upgrade: Upgrade;
  readonly progress: Progress;
  /** Aborted by Ctrl-C: the run ends and returns the results so far. */
  readonly interrupted: AbortSignal;
}

/** Time limit for reads in flight when a run ends. */
const LEAVE_DEADLINE_MS = 15_000;

/**
 * Runs it and returns the results.
 * @throws ErofsNbdError before the first fault, if the device cannot be tested
 */
export async function runChaos(options: ChaosOptions, surroundings: ChaosSurroundings): Promise<ChaosRun> {
  const note = (line: string): void => surroundings.progress.say(`note: ${line}`);
  const watch = new DeviceWatch(options.target, surroundings.connect, note);
  try {
    const device = await watch.status(surroundings.interrupted);
    refuseUnusable(device);
    return await new ChaosEngine(options, surroundings, watch, device).run();
  } finally {
    watch.disconnect();
  }
}

class ChaosEngine {
  readonly #options: ChaosOptions;
  readonly #surroundings: ChaosSurroundings;
  readonly #watch: DeviceWatch;
  readonly #index: number;
  readonly #log: RunLog;
  readonly #reader: Reader;
  readonly #victims = new Victims();
  readonly #halt = new AbortController();
  readonly #beginMs = monotonicMs();
  #phase = "starting the reader";
  #device: DeviceStatus;

  constructor(
    options: ChaosOptions,
    surroundings: ChaosSurroundings,
    watch: DeviceWatch,
    device: DeviceStatus,
  ) {
    this.#options = options;
    this.#surroundings = surroundings;
    this.#watch = watch;
    this.#device = device;
    this.#index = device.index ?? -1;
    const { seed, intervalMs, what, depth } = options;
    this.#log = new RunLog({ seed, intervalMs, what, depth }, device);
    this.#reader = new Reader(this.#readerStart(), {
      span: (span) => this.#log.timeline.add(span),
      trouble: (line) => this.#trouble(line),
    });
  }

  async run(): Promise<ChaosRun> {
    const { interrupted, progress } = this.#surroundings;
    const onInterrupt = (): void => this.#halt.abort(new Halted("interrupted"));
    const onExit = (): void => {
      this.#victims.endStopped();
      this.#reader.kill();
    };
    process.once("exit", onExit);
    interrupted.addEventListener("abort", onInterrupt, { once: true });
    if (interrupted.aborted) onInterrupt();
    progress.now = () => this.#describeNow();
    try {
      await this.#measureAndBreak(this.#halt.signal);
    } catch (error) {
      this.#noteEnd(error);
    } finally {
      interrupted.removeEventListener("abort", onInterrupt);
      await this.#leave();
      process.off("exit", onExit);
    }
    return this.#log.toRun(monotonicMs() - this.#beginMs, this.#reader.totals);
  }

  async #measureAndBreak(signal: AbortSignal): Promise<void> {
    const { progress } = this.#surroundings;
    await this.#reader.reading(signal);
    this.#phase = "measuring without faults";
    await pause(this.#options.baselineMs, signal);
    const plan = planFaults(this.#options);
    const faults = new FaultRun({
      watch: this.#watch,
      reader: this.#reader,
      victims: this.#victims,
      upgrade: this.#surroundings.upgrade,
      log: this.#log,
      deadlineMs: this.#options.deadlineMs,
      sinceBeginMs: () => monotonicMs() - this.#beginMs,
      isReading: () => readsInFlight(this.#index) > 0,
      phase: (phase) => {
        this.#phase = phase;
      },
      problem: (line) => progress.say(`problem: ${line}`),
      device: this.#device,
    });
    for (const [at, planned] of plan.entries()) {
      await pause(planned.waitMs, signal);
      const fault = await faults.next(planned, signal);
      progress.step(describeFault(fault, at + 1, plan.length));
    }
    this.#phase = "looking for late failovers";
    await pause(this.#options.intervalMs, signal);
    await faults.settleAccounts(signal);
  }

  /** Why the run ended before its plan was complete. */
  #noteEnd(error: unknown): void {
    if (error instanceof Halted) return;
    if (!isCoded(error)) throw error;
    this.#trouble(error.message);
  }

  #trouble(line: string): void {
    if (this.#log.problem(line)) this.#surroundings.progress.say(`problem: ${line}`);
    this.#halt.abort(new Halted(line));
  }

  /** Cleans up: stopped processes, a dead manager, the reader. It has time limits and is not interrupted. */
  async #leave(): Promise<void> {
    this.#phase = "ending";
    const patient = new AbortController().signal;
    const ended = this.#victims.endStopped();
    if (ended.length > 0)
      this.#surroundings.progress.say(
        `note: worker ${ended.join(", ")} was still stopped and has been killed`,
      );
    const isServing = (device: DeviceStatus): boolean => device.state === "serving";
    await this.#watch
      .until(isServing, "the device was served again", LEAVE_DEADLINE_MS, patient)
      .catch((error: unknown) => this.#noteEnd(error));
    if (!(await this.#reader.stop(LEAVE_DEADLINE_MS))) this.#reportLostReads(readsInFlight(this.#index));
  }

  #reportLostReads(count: number): void {
    const reads = `${count} read(s) of ${devicePath(this.#index)}`;
    this.#trouble(`${reads} did not come back: reader ${this.#reader.pid} ends with them`);
  }

  #readerStart(): ReaderStart {
    const { source, sizeBytes, blockSizeBytes } = this.#device;
    return {
      type: "start",
      device: devicePath(this.#index),
      image: source.uri,
      imageBytes: source.sizeBytes,
      deviceBytes: sizeBytes,
      blockSizeBytes,
      depth: this.#options.depth,
      largeSlots: this.#options.largeSlots,
      seed: this.#options.seed,
      beginMs: this.#beginMs,
      spanMs: SPAN_MS,
      direct: true,
    };
  }

  #describeNow(): string {
    const { faults, timeline } = this.#log;
    const { p50Ms, p99Ms, longestMs } = timeline.totalFigures();
    const times = `p50 ${formatMs(p50Ms)}, p99 ${formatMs(p99Ms)}, longest ${formatMs(longestMs)}`;
    const figures = `${timeline.reads} reads, ${times}`;
    const seconds = Math.floor((monotonicMs() - this.#beginMs) / 1000);
    return `${seconds} s  ${faults.length}/${this.#options.kills} faults  ${figures}  ${this.#phase}`;
  }
}

/** @throws ErofsNbdError for a device that faults would destroy, or that is not serving */
function refuseUnusable(device: DeviceStatus): void {
  if (device.interface === "ioctl") {
    throw new ErofsNbdError(
      "ERR_BAD_ARGUMENT",
      `cannot put ${device.device} to the test: it is attached by ioctl, where a dead worker is a dead device`,
      { hint: "attach the image through netlink" },
    );
  }
  if (device.state !== "serving" || device.links.some((link) => link.state !== "up")) {
    throw new ErofsNbdError(
      "ERR_NOT_READABLE",
      `cannot put ${device.device} to the test: it is ${device.state}, and not all of its links are up`,
      { hint: "see erofs-nbd status" },
    );
  }
}
