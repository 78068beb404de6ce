/**
 * The expected outcome of each fault, and the comparison with what happened, as `chaos --help` states it. Pure.
 *
 * A failover is one `failover` event and one increment of a counter in `status`. Both must agree, and their number must
 * match the fault. Counters continue across managers. No mismatch is tolerated for being rare.
 */
import type { DeviceStatus } from "../control/protocol.ts";
import type { FaultKind } from "./run.ts";

/** Counters of `status`: failovers, planned handovers (which are no failovers), reads answered with an error. */
export interface Counted {
  readonly takeovers: number;
  readonly reconnects: number;
  readonly failedFailovers: number;
  readonly handovers: number;
  readonly readErrors: number;
}

/** How many failovers a fault may cause, and of which level. */
export interface Expectation {
  readonly min: number;
  readonly max: number;
  /** `any` includes reconnects: a takeover that cannot be proven safe is replaced by one. */
  readonly levels: "any" | "reconnect";
  /** The least number of planned handovers. */
  readonly handovers: number;
}

/**
 * The expected outcome. `links`: how many live links of the device the fault hits. A worker's death, or a cut, may be
 * one failover for all of them or one for each.
 */
export function expectationOf(kind: FaultKind, links: number): Expectation {
  switch (kind) {
    // The process that served is dead, or is killed because it is silent.
    case "worker":
    case "hang":
    // No process is left that holds the links; the next manager finds the device without them.
    case "both":
      return { min: 1, max: links, levels: "any", handovers: 0 };
    // The socket itself is gone, so it cannot be taken over.
    case "link":
      return { min: 1, max: links, levels: "reconnect", handovers: 0 };
    // Workers serve on; the next manager may have to replace their links, or not.
    case "manager":
      return { min: 0, max: links, levels: "any", handovers: 0 };
    // Planned: links are handed over, which is no failover.
    case "upgrade":
      return { min: 0, max: 0, levels: "any", handovers: links };
  }
}

/** What was counted between two answers of `status`. */
export function countedBetween(
  { counters: before }: DeviceStatus,
  { counters: after }: DeviceStatus,
): Counted {
  return {
    takeovers: after.takeovers - before.takeovers,
    reconnects: after.reconnects - before.reconnects,
    failedFailovers: after.failedFailovers - before.failedFailovers,
    handovers: after.handovers - before.handovers,
    readErrors: after.readErrors - before.readErrors,
  };
}

/**
 * How many failovers there must be by now. A manager's death needs none while the same workers continue, or if the next
 * manager hands links over as planned. If other workers serve without such a handover, there was a failover, whose
 * outcome may not have arrived yet.
 */
export function leastOf(
  kind: FaultKind,
  expected: Expectation,
  before: DeviceStatus,
  now: DeviceStatus,
): number {
  if (kind !== "manager") return expected.min;
  const workers = (device: DeviceStatus): string => device.links.map((link) => link.workerPid).join();
  return workers(before) === workers(now) || countedBetween(before, now).handovers > 0 ? 0 : 1;
}

export const failoversIn = (counted: Counted): number =>
  counted.takeovers + counted.reconnects + counted.failedFailovers;

/** Reported failovers, by level and result. */
export interface Told {
  readonly level: string;
  readonly result: "recovered" | "failed";
}

/**
 * All mismatches between a fault's expected and actual outcome, one line each. `told` are the events since the fault,
 * or undefined if another manager may have sent some before there was a connection.
 */
export function judge(
  subject: string,
  expected: Expectation,
  counted: Counted,
  told: readonly Told[] | undefined,
): string[] {
  const problems: string[] = [];
  const count = failoversIn(counted);
  if (count < expected.min || count > expected.max) {
    problems.push(`${subject}: ${count} failovers were counted, wanted ${inWords(expected)}`);
  }
  if (counted.failedFailovers > 0) problems.push(`${subject}: ${counted.failedFailovers} failover(s) failed`);
  if (expected.levels === "reconnect" && counted.takeovers > 0)
    problems.push(`${subject}: ${counted.takeovers} takeover(s) of a socket that was gone`);
  if (counted.handovers < expected.handovers)
    problems.push(`${subject}: ${counted.handovers} link(s) handed over, wanted ${expected.handovers}`);
  if (counted.readErrors > 0)
    problems.push(`${subject}: ${counted.readErrors} read(s) were answered with an error`);
  if (told !== undefined) problems.push(...compare(subject, counted, told));
  return problems;
}

function inWords({ min, max }: Expectation): string {
  return min === max ? `exactly ${min}` : `${min} to ${max}`;
}

function compare(subject: string, counted: Counted, told: readonly Told[]): string[] {
  const events = {
    takeovers: told.filter(({ level, result }) => result === "recovered" && level === "takeover").length,
    reconnects: told.filter(({ level, result }) => result === "recovered" && level === "reconnect").length,
    failedFailovers: told.filter(({ result }) => result === "failed").length,
  };
  return (["takeovers", "reconnects", "failedFailovers"] as const)
    .filter((name) => events[name] !== counted[name])
    .map((name) => `${subject}: status counts ${counted[name]} ${name}, the events tell ${events[name]}`);
}
