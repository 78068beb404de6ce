/**
 * The plan of a run: which fault is injected when. It is computed from a seed before the run starts.
 *
 * The same numbers give the same plan on every machine, so that a run that found a failure can be repeated. Kinds and
 * waits come from separate random streams: another interval changes no kind. Pure; independent of devices.
 */
import type { FaultKind } from "./run.ts";

/** In the order of the report. */
export const FAULT_KINDS: readonly FaultKind[] = ["worker", "hang", "link", "manager", "both", "upgrade"];

export interface PlanRequest {
  readonly seed: number;
  readonly kills: number;
  /** Mean of the waits. */
  readonly intervalMs: number;
  /** Without repetition. */
  readonly what: readonly FaultKind[];
}

export interface PlannedFault {
  readonly kind: FaultKind;
  /** Time from the recovery after the previous fault to this one: 0.5 to 1.5 times the interval. */
  readonly waitMs: number;
  /** 0 to 1: selects one of several victims. */
  readonly pick: number;
}

/** Seeds are 32 bits wide. */
export const MAX_SEED = 0xffff_ffff;

/** Pseudo-random numbers from 0 to 1: a counter with a large odd step whose bits are mixed. */
export function randomFrom(seed: number, stream = 0): () => number {
  let counter = (seed ^ Math.imul(stream, 0x85eb_ca6b)) >>> 0;
  return () => {
    counter = (counter + 0x9e37_79b9) >>> 0;
    let mixed = Math.imul(counter ^ (counter >>> 16), 0x21f0_aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a_2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  };
}

/**
 * The faults of a run, in order. Every kind comes once before any comes twice, in an order that changes from round to
 * round: with as many kills as kinds all of them occur, and their counts never differ by more than one.
 */
export function planFaults({ seed, kills, intervalMs, what }: PlanRequest): PlannedFault[] {
  const order = randomFrom(seed, 1);
  const pause = randomFrom(seed, 2);
  const choose = randomFrom(seed, 3);
  const plan: PlannedFault[] = [];
  let round: FaultKind[] = [];
  while (plan.length < kills) {
    if (round.length === 0) round = shuffled(what, order);
    const kind = round.shift();
    if (kind === undefined) break;
    plan.push({ kind, waitMs: Math.round(intervalMs * (0.5 + pause())), pick: choose() });
  }
  return plan;
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, key: random() }))
    .sort((a, b) => a.key - b.key)
    .map(({ item }) => item);
}
