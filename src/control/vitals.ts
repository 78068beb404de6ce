/**
 * The measurements in an answer to `status`: recent traffic of a device, and the processes of the manager. Types only.
 */

/** The field `recent` of a device's status: a contract with users' scripts. */
export interface RecentTraffic {
  /** The length of the interval. */
  readonly seconds: number;
  readonly requestsPerSecond: number;
  readonly readBytesPerSecond: number;
  /** Latencies of requests answered in the interval, from receiving to sending; null if there were none. */
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
}

/** The manager and its workers; part of every answer to `status`. */
export interface ManagerVitals {
  readonly pid: number;
  readonly version: string;
  /** ISO 8601. */
  readonly startedAt: string;
  /** 0 if /proc does not provide it. */
  readonly residentBytes: number;
  readonly workers: ReadonlyArray<{
    readonly pid: number;
    readonly isReady: boolean;
    readonly links: number;
    readonly residentBytes: number;
  }>;
}
