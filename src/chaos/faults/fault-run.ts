/**
 * Faults one after the other, each from choosing the victim to checking the outcome: read `next` from top to bottom.
 *
 * The engine passes in what it needs and starts each fault. Between two faults the device's status is compared with the
 * last one: an unexpected failover belongs to a manager that was just replaced, or is a problem.
 */
import type { DeviceStatus } from "../../control/protocol.ts";
import { isCoded } from "../../errors.ts";
import {
  type Counted,
  countedBetween,
  type Expectation,
  failoversIn,
  judge,
  leastOf,
} from "../accounting.ts";
import type { DeviceWatch, FailoverEvent } from "../device-watch.ts";
import type { Reader } from "../reader/reader.ts";
import type { FaultOutcome } from "../run.ts";
import type { LoggedFault, RunLog } from "../run-log.ts";
import type { PlannedFault } from "../schedule.ts";
import { round } from "../timeline.ts";
import { Halted, OverdueError, until } from "../waiting.ts";
import { type AimedFault, aim, type Upgrade } from "./faults.ts";
import type { Victims } from "./victims.ts";

export interface FaultRunOptions {
  readonly watch: DeviceWatch;
  readonly reader: Pick<Reader, "open" | "settle">;
  readonly victims: Victims;
  readonly upgrade: Upgrade;
  readonly log: RunLog;
  /** The device at the run's begin. */
  readonly device: DeviceStatus;
  readonly deadlineMs: number;
  readonly sinceBeginMs: () => number;
  /** Whether a read is on the wire at this moment. */
  readonly isReading: () => boolean;
  /** What the run waits for, as text. */
  readonly phase: (phase: string) => void;
  /** A problem that does not end the run. */
  readonly problem: (line: string) => void;
}

const IN_FLIGHT_DEADLINE_MS = 30_000;
/** A stopped worker has lost its links by now; its end may take a moment more. */
const STOPPED_DEADLINE_MS = 5000;
/** After a missing outcome: whether reads make progress anyway. */
const LAST_LOOK_MS = 2000;

export class FaultRun {
  readonly #options: FaultRunOptions;
  /** The device after the last outcome was checked. */
  #last: DeviceStatus;
  #lastLabel = "before the first fault";

  constructor(options: FaultRunOptions) {
    this.#options = options;
    this.#last = options.device;
  }

  /**
   * One fault: checks that nothing happened since the last one, chooses the victims, waits until reads are in flight,
   * injects the fault, waits for the outcome and until reads make progress, and checks the outcome.
   * @throws OverdueError when an outcome is missing, the signal's reason, ErofsNbdError
   */
  async next(planned: PlannedFault, signal: AbortSignal): Promise<LoggedFault> {
    const { watch, reader, victims, log } = this.#options;
    await reader.open(signal);
    await this.settleAccounts(signal);
    const before = this.#last;
    // Links may be moved at any time, so the victims are chosen just before the fault.
    const aimed = aim(planned, before, watch, victims, this.#options.upgrade);
    await until(this.#options.isReading, "a read was on the wire", IN_FLIGHT_DEADLINE_MS, 1, signal);
    log.timeline.endBaseline();
    const fault = log.beginFault(aimed.kind, this.#options.sinceBeginMs(), aimed.label);
    this.#options.phase(aimed.label);
    const stallMs = await this.#fire(fault, aimed);
    await this.#outcome(fault, aimed, before, signal);
    for (const pid of await victims.outlived(STOPPED_DEADLINE_MS))
      this.#note([`${aimed.label}: process ${pid} is there still, stopped`]);
    const after = await watch.until(() => true, "the manager answered", this.#options.deadlineMs, signal);
    this.#close(fault, aimed, before, after);
    if (stallMs !== undefined && fault.outcome !== null) fault.outcome = { ...fault.outcome, stallMs };
    return fault;
  }

  /** Nothing may have happened since the last outcome was checked. @throws like `next` */
  async settleAccounts(signal: AbortSignal): Promise<void> {
    const { watch, log, deadlineMs } = this.#options;
    const now = await watch.until(isWhole, "every link was up", deadlineMs, signal);
    const told = watch.takeFailovers();
    const isSame = now.managerPid === this.#last.managerPid;
    const nothing: Expectation = { min: 0, max: 0, levels: "any", handovers: 0 };
    const counted = countedBetween(this.#last, now);
    const problems = judge(`after ${this.#lastLabel}`, nothing, counted, isSame ? told : undefined);
    if (!isSame) problems.push(`after ${this.#lastLabel}: manager ${this.#last.managerPid} is gone, unasked`);
    this.#note(problems);
    const last = log.faults.at(-1);
    if (last !== undefined) log.count(last, counted);
    this.#last = now;
    this.#options.phase("waiting for the next");
  }

  /** @throws Halted when it could not be done: an upgrade that fails, a victim that has ended by itself */
  async #fire(fault: LoggedFault, aimed: AimedFault): Promise<number | undefined> {
    try {
      return await aimed.fire();
    } catch (error) {
      // The engine shows all others as bugs.
      if (!isCoded(error)) throw error;
      fault.outcome = { level: "none", result: "failed", cause: error.message, stallMs: 0 };
      const line = `${aimed.label}: ${error.message}`;
      this.#options.log.problem(line);
      this.#options.problem(line);
      throw new Halted(line);
    }
  }

  /** Waits for the expected outcome of a fault, then until reads make progress. */
  async #outcome(
    fault: LoggedFault,
    aimed: AimedFault,
    before: DeviceStatus,
    signal: AbortSignal,
  ): Promise<void> {
    const { watch, reader, deadlineMs, sinceBeginMs } = this.#options;
    const isOver = (now: DeviceStatus): boolean => {
      if (aimed.endsManager && now.managerPid === before.managerPid) return false;
      return (
        isWhole(now) &&
        failoversIn(countedBetween(before, now)) >= leastOf(aimed.kind, aimed.expected, before, now)
      );
    };
    try {
      await watch.until(isOver, "it had an outcome and every link was up", deadlineMs, signal);
      const { longestMs } = await reader.settle(deadlineMs, signal);
      fault.longestReadMs = round(longestMs);
    } catch (error) {
      fault.longestReadMs = round(sinceBeginMs() - fault.atMs);
      if (!(error instanceof OverdueError)) throw error;
      fault.outcome = { level: "none", result: "missing", cause: aimed.label, stallMs: fault.longestReadMs };
      const howReadsAre = await this.#howReadsAre(signal);
      const line = `${aimed.label}: waited ${deadlineMs / 1000} s in vain until ${error.what}; ${howReadsAre}`;
      this.#note([line]);
      throw new Halted(line);
    }
  }

  async #howReadsAre(signal: AbortSignal): Promise<string> {
    const flow = this.#options.reader.settle(LAST_LOOK_MS, signal);
    return flow.then(
      () => "reads flow",
      () => "reads stand still",
    );
  }

  #close(fault: LoggedFault, aimed: AimedFault, before: DeviceStatus, after: DeviceStatus): void {
    const { watch, log } = this.#options;
    const told = watch.takeFailovers();
    const counted = countedBetween(before, after);
    const isSame = before.managerPid === after.managerPid;
    const expected = { ...aimed.expected, min: leastOf(aimed.kind, aimed.expected, before, after) };
    const problems = judge(aimed.label, expected, counted, isSame ? told : undefined);
    if (!isSame && !aimed.endsManager)
      problems.push(`${aimed.label}: manager ${before.managerPid} is gone, too`);
    log.count(fault, counted);
    fault.outcome = outcomeOf(aimed, counted, told, after);
    this.#note(problems);
    this.#last = after;
    this.#lastLabel = aimed.label;
  }

  #note(problems: readonly string[]): void {
    this.#options.log.uncounted(problems);
    for (const line of problems) this.#options.problem(line);
  }
}

const isWhole = (device: DeviceStatus): boolean =>
  device.state === "serving" && device.links.length > 0 && device.links.every((link) => link.state === "up");

function outcomeOf(
  { label }: AimedFault,
  counted: Counted,
  told: readonly FailoverEvent[],
  after: DeviceStatus,
): FaultOutcome {
  // A manager may have reported it before this connection subscribed: its status keeps the last one.
  const outcomes = told.length > 0 ? told : [after.lastFailover].filter((one) => one !== null);
  const last = outcomes.at(-1);
  if (failoversIn(counted) === 0 || last === undefined) {
    const what = counted.handovers > 0 ? `${counted.handovers} link(s) handed over` : "every link stayed";
    return { level: "none", result: "recovered", cause: `${label}; ${what}`, stallMs: 0 };
  }
  return {
    level: counted.reconnects > 0 ? "reconnect" : "takeover",
    result: counted.failedFailovers > 0 ? "failed" : "recovered",
    cause: last.cause,
    stallMs: Math.max(...outcomes.map((one) => one.stallMs)),
  };
}
