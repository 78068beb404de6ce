/**
 * The death of a link, or of the worker of a link, as the links report it and failovers explain it.
 */
import type { FailoverCauseClass } from "../managed-device.ts";

/** How much a witness knows about the cause. The words of a better witness replace those of a worse one. */
export const WITNESS = { kernel: 0, worker: 1, exit: 2 } as const;
export type Witness = (typeof WITNESS)[keyof typeof WITNESS];

export interface LinkDeath {
  readonly cause: string;
  readonly witness: Witness;
  readonly causeClass: FailoverCauseClass;
  /** For how long reads had stood still when the death was noticed. */
  readonly silentMs: number;
}

/** A link is dead: with its worker, if the exit is the witness, or by itself. */
export function deathOfLink(cause: string, witness: Witness): LinkDeath {
  return { cause, witness, causeClass: witness === WITNESS.exit ? "worker-exit" : "link", silentMs: 0 };
}

/** A link has lost its worker and is still up. `hung`: the worker was killed because it did not serve. */
export function deathOfWorker(cause: string, silentMs: number, hung: boolean): LinkDeath {
  return { cause, witness: WITNESS.exit, causeClass: hung ? "worker-hang" : "worker-exit", silentMs };
}
