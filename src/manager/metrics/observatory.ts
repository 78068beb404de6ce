/**
 * Measures a manager: recent traffic of each device, memory and workers for `status`, all figures for a scrape.
 *
 * Owned by the manager; devices.ts adds and removes devices. Reads journals and /proc, on a timer and on request, and
 * decides nothing. Of the kernel it reads sysfs, for devices in an outage only.
 */
import { readFileSync } from "node:fs";
import type { ManagerVitals, RecentTraffic } from "../../control/vitals.ts";
import { countOf, type LatencySummary, summarise, sumSecondsOf } from "../../journal/latency.ts";
import type { PoolCensus } from "../../pool/worker-pool.ts";
import type { DeviceState } from "../../supervisor/device-state.ts";
import type { ManagedDevice } from "../../supervisor/managed-device.ts";
import { VERSION } from "../../version.ts";
import { FailoverTally } from "./failover-tally.ts";
import { LOOK_MS, type Look, TrafficWindow } from "./recent-traffic.ts";

export interface DeviceFigures {
  /** `nbd0`; undefined until the kernel has assigned an index. */
  readonly name: string | undefined;
  readonly state: DeviceState;
  readonly requests: number;
  readonly readBytes: number;
  readonly readErrors: number;
  readonly latencyCount: number;
  readonly latencySumSeconds: number;
  readonly linksUp: number;
  readonly linksDown: number;
}

/** All that a scrape returns, at one moment. */
export interface Figures {
  readonly vitals: ManagerVitals;
  readonly devices: readonly DeviceFigures[];
  readonly tally: FailoverTally;
  /** Of all devices of this manager, including those that have ended. */
  readonly latencies: LatencySummary;
  readonly oldestRequestSeconds: number;
  readonly strikes: number;
  readonly workerExits: PoolCensus["exits"];
  /** The longest delay of the event loop in the last 30 to 60 seconds. */
  readonly lagSeconds: number;
}

const BEAT_MS = 500;
const BEATS_PER_LOOK = LOOK_MS / BEAT_MS;
/** The longest delay is that of the current window and the one before. */
const BEATS_PER_LAG_WINDOW = 60;

export interface ObservatoryOptions {
  readonly devices: () => Iterable<ManagedDevice>;
  readonly census: (nowMs: number) => PoolCensus;
}

export class Observatory {
  readonly tally: FailoverTally = new FailoverTally();
  readonly #options: ObservatoryOptions;
  readonly #windows = new Map<ManagedDevice, TrafficWindow>();
  /** Latencies of devices that have ended. */
  readonly #past: number[] = [];
  readonly #startedAt = new Date().toISOString();
  readonly #timer: NodeJS.Timeout;
  #beats = 0;
  #beatAtMs = performance.now();
  #worstLagMs = 0;
  #formerWorstLagMs = 0;

  constructor(options: ObservatoryOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#beat(), BEAT_MS).unref();
  }

  /** Starts to measure a device. */
  own(device: ManagedDevice): void {
    this.#windows.set(device, new TrafficWindow());
    device.on("failover", (outcome) => this.tally.failover(outcome));
    device.on("moved", () => this.tally.handover());
  }

  /** Stops to measure a device; its latencies stay in the totals. */
  disown(device: ManagedDevice): void {
    if (this.#windows.delete(device)) device.addLatenciesTo(this.#past);
  }

  /** Null until the device has been sampled. */
  recent(device: ManagedDevice): RecentTraffic | null {
    return this.#windows.get(device)?.until(lookAt(device, performance.now())) ?? null;
  }

  vitals(census: PoolCensus = this.#options.census(performance.now())): ManagerVitals {
    return {
      pid: process.pid,
      version: VERSION,
      startedAt: this.#startedAt,
      residentBytes: residentBytes(process.pid),
      workers: census.workers.map((worker) => ({ ...worker, residentBytes: residentBytes(worker.pid) })),
    };
  }

  figures(): Figures {
    const nowMs = performance.now();
    const census = this.#options.census(nowMs);
    const devices = [...this.#options.devices()];
    const latencies = [...this.#past];
    for (const device of devices) device.addLatenciesTo(latencies);
    const waitingMs = devices.reduce((most, device) => Math.max(most, device.waitingMs), 0);
    return {
      vitals: this.vitals(census),
      devices: devices.map(figuresOf),
      tally: this.tally,
      latencies: summarise(latencies),
      oldestRequestSeconds: Math.max(census.oldestRequestMs, waitingMs) / 1000,
      strikes: census.strikes,
      workerExits: census.exits,
      lagSeconds: this.#lagMs(nowMs) / 1000,
    };
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #beat(): void {
    const nowMs = performance.now();
    this.#worstLagMs = Math.max(this.#worstLagMs, nowMs - this.#beatAtMs - BEAT_MS);
    this.#beatAtMs = nowMs;
    this.#beats += 1;
    if (this.#beats % BEATS_PER_LAG_WINDOW === 0) {
      this.#formerWorstLagMs = this.#worstLagMs;
      this.#worstLagMs = 0;
    }
    if (this.#beats % BEATS_PER_LOOK !== 0) return;
    for (const [device, window] of this.#windows) window.keep(lookAt(device, nowMs));
  }

  /** A beat that is overdue at this moment counts as well. */
  #lagMs(nowMs: number): number {
    return Math.max(this.#worstLagMs, this.#formerWorstLagMs, nowMs - this.#beatAtMs - BEAT_MS, 0);
  }
}

function lookAt(device: ManagedDevice, atMs: number): Look {
  const { requests, readBytes } = device.counters;
  const latencies: number[] = [];
  device.addLatenciesTo(latencies);
  return { atMs, requests, readBytes, latencies };
}

function figuresOf(device: ManagedDevice): DeviceFigures {
  const { index, state, counters } = device;
  const { requests, readBytes, readErrors } = counters;
  const latencies: number[] = [];
  device.addLatenciesTo(latencies);
  const links = device.describeLinks();
  const linksUp = links.filter((link) => link.state === "up").length;
  return {
    name: index === undefined ? undefined : `nbd${index}`,
    state,
    requests,
    readBytes,
    readErrors,
    latencyCount: countOf(latencies),
    latencySumSeconds: sumSecondsOf(latencies),
    linksUp,
    linksDown: links.length - linksUp,
  };
}

/** Resident memory of a process, shared pages included; 0 when it has ended. */
function residentBytes(pid: number): number {
  if (pid === process.pid) return process.memoryUsage.rss();
  try {
    const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return Number(kibibytes ?? 0) * 1024;
  } catch {
    // The process has ended since the census.
    return 0;
  }
}
