/**
 * The figures in an answer to `status` that the manager measures: recent traffic of a device, and of the manager itself.
 *
 * A contract with users' scripts. Types only.
 */

/** The `recent` of a device's status; a contract with users' scripts. */
export interface RecentTraffic {
  /** How long these seconds were. */
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly readBytesPerSecond: number;
  /** Of requests answered in them, from received to sent; null when there were none. */
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
}

/** How the manager and its workers are; goes with every `status`. */
export interface ManagerVitals {
  readonly pid: number;
  readonly version: string;
  /** ISO 8601. */
  readonly startedAt: string;
  /** 0 where /proc does not tell. */
  readonly residentBytes: number;
  readonly workers: ReadonlyArray<{
    readonly pid: number;
    readonly isReady: boolean;
    readonly links: number;
    readonly residentBytes: number;
  }>;
}
