/**
 * The results of a run so far, and the ChaosRun made of them: faults with their outcomes, problems, measurements.
 *
 * It only stores and sums up. The engine and accounting.ts decide what is a problem.
 */
import { release } from "node:os";
import type { DeviceStatus } from "../control/protocol.ts";
import { VERSION } from "../version.ts";
import type { Counted } from "./accounting.ts";
import { quantileOf } from "./latencies.ts";
import type { ReaderTotals } from "./reader/reader.ts";
import type { ChaosRun, Fault, FaultKind, FaultOutcome, KindSummary } from "./run.ts";
import { FAULT_KINDS } from "./schedule.ts";
import { round, Timeline } from "./timeline.ts";

/** The options of a run that its report repeats. */
export interface RunSettings {
  readonly seed: number;
  readonly intervalMs: number;
  readonly what: readonly FaultKind[];
  readonly depth: number;
}

/** A fault while its outcome is awaited, and afterwards. */
export interface LoggedFault {
  readonly kind: FaultKind;
  readonly atMs: number;
  readonly label: string;
  outcome: FaultOutcome | null;
  longestReadMs: number;
  takeovers: number;
  reconnects: number;
}

export class RunLog {
  readonly timeline: Timeline = new Timeline();
  readonly faults: LoggedFault[] = [];
  readonly problems: string[] = [];
  readonly #settings: RunSettings;
  readonly #device: DeviceStatus;
  readonly #startedAt = new Date().toISOString();
  #uncounted = 0;

  constructor(settings: RunSettings, device: DeviceStatus) {
    this.#settings = settings;
    this.#device = device;
  }

  beginFault(kind: FaultKind, atMs: number, label: string): LoggedFault {
    const fault = {
      kind,
      atMs: round(atMs),
      label,
      outcome: null,
      longestReadMs: 0,
      takeovers: 0,
      reconnects: 0,
    };
    this.faults.push(fault);
    return fault;
  }

  /** Adds failovers that were counted for a fault. */
  count(fault: LoggedFault, counted: Counted): void {
    fault.takeovers += counted.takeovers;
    fault.reconnects += counted.reconnects;
  }

  /** A problem, as one line. False if it was recorded before. */
  problem(line: string): boolean {
    if (this.problems.includes(line)) return false;
    this.problems.push(line);
    return true;
  }

  /** Failovers that do not match the counters or events. */
  uncounted(lines: readonly string[]): void {
    this.#uncounted += lines.length;
    for (const line of lines) this.problem(line);
  }

  toRun(durationMs: number, totals: ReaderTotals): ChaosRun {
    const { source, device, index } = this.#device;
    const isPassed = this.problems.length === 0 && totals.wrong === 0 && totals.errors === 0;
    return {
      version: VERSION,
      kernel: release(),
      nodeVersion: process.version,
      device: device ?? `nbd${index}`,
      image: source.uri,
      imageBytes: source.sizeBytes,
      startedAt: this.#startedAt,
      durationMs: Math.round(durationMs),
      ...this.#settings,
      faults: this.faults.map(toFault),
      latency: this.timeline.points(durationMs),
      kinds: [this.timeline.baselineSummary(), ...this.#kinds()],
      baseline: this.timeline.baselineFigures(),
      totals: {
        ...this.timeline.totalFigures(),
        bytes: this.timeline.bytes,
        wrong: totals.wrong,
        errors: totals.errors,
        uncounted: this.#uncounted,
      },
      verdict: isPassed ? "passed" : "failed",
      problems: [...this.problems],
    };
  }

  #kinds(): KindSummary[] {
    return FAULT_KINDS.map((kind) => ({
      kind,
      faults: this.faults.filter((fault) => fault.kind === kind && fault.outcome !== null),
    }))
      .filter(({ faults }) => faults.length > 0)
      .map(({ kind, faults }) => summarise(kind, faults));
  }
}

function toFault({ takeovers: _, reconnects: __, ...fault }: LoggedFault): Fault {
  return fault;
}

function summarise(kind: FaultKind, faults: readonly LoggedFault[]): KindSummary {
  const stalls = faults.map((fault) => fault.longestReadMs);
  const sum = (name: "takeovers" | "reconnects"): number =>
    faults.reduce((all, fault) => all + fault[name], 0);
  return {
    kind,
    count: faults.length,
    takeovers: sum("takeovers"),
    reconnects: sum("reconnects"),
    p50Ms: round(quantileOf(stalls, 0.5)),
    p99Ms: round(quantileOf(stalls, 0.99)),
    longestMs: round(quantileOf(stalls, 1)),
  };
}
