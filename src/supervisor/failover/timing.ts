/** How long the steps of a failover wait. Tests bring their own; devices use FAILOVER_TIMING. */
import type { Options } from "p-retry";

type Pace = Pick<Options, "retries" | "minTimeout" | "maxTimeout" | "factor" | "randomize">;

export interface FailoverTiming {
  /** How long one attempt waits for a worker that can serve. */
  readonly workerDeadlineMs: number;
  /** Without a request on the fresh socket for this long, though a read was forced, the kernel did not take it. */
  readonly proofDeadlineMs: number;
  /** Attempts until the device counts as stalled. */
  readonly quick: Pace;
  /** Attempts after that. */
  readonly slow: Pace;
}

export const FAILOVER_TIMING: FailoverTiming = {
  workerDeadlineMs: 15_000,
  proofDeadlineMs: 4000,
  quick: { retries: 7, minTimeout: 50, maxTimeout: 2000, factor: 2, randomize: true },
  slow: {
    retries: Number.POSITIVE_INFINITY,
    minTimeout: 2000,
    maxTimeout: 15_000,
    factor: 1.5,
    randomize: true,
  },
};
