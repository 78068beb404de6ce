/**
 * The data of the live table: the last known status of the devices, their rates, the latest events, and the workers.
 *
 * Fed by live.ts with answers and events, read by frame.ts. Pure: no clock, no terminal.
 */
import type { DeviceEvent, DeviceStatus, Requests } from "../../control/protocol.ts";
import { printable } from "../../text/printable.ts";
import { formatEvent, stalledReason } from "../output.ts";

type StatusAnswer = Requests["status"]["result"];

/** A device as the table shows it. */
export interface Row {
  readonly status: DeviceStatus;
  /** Null until it can be computed. */
  readonly requestsPerSecond: number | null;
  readonly readBytesPerSecond: number | null;
  /** 0 is the most urgent, CALM the least. */
  readonly urgency: number;
}

export const CALM = 6;

const URGENCY: Partial<Record<DeviceStatus["state"], number>> = {
  failed: 0,
  stalled: 1,
  reconnecting: 2,
  "taking-over": 3,
  attaching: 4,
  detaching: 4,
};
const RECOVERED = 5;
/** How long a device stays near the top after a failover or a read error. */
const NEWS_MS = 60_000;
/** A rate over a shorter interval would be noise. */
const MIN_INTERVAL_MS = 300;
const MAX_EVENTS = 50;

interface Sample {
  readonly atMs: number;
  readonly requests: number;
  readonly readBytes: number;
  readonly readErrors: number;
  readonly requestsPerSecond: number | null;
  readonly readBytesPerSecond: number | null;
  readonly failedAtMs: number;
}

export class Fleet {
  #answer: StatusAnswer | undefined;
  #samples = new Map<string, Sample>();
  #events: string[] = [];
  /** Why there is no new data; undefined while there is. */
  silence: string | undefined;

  get manager(): StatusAnswer["manager"] {
    return this.#answer?.manager;
  }

  get devices(): readonly DeviceStatus[] {
    return this.#answer?.devices ?? [];
  }

  /** Event lines with the time of day, the latest last. */
  get events(): readonly string[] {
    return this.#events;
  }

  heard(answer: StatusAnswer, nowMs: number): void {
    const before = this.#samples;
    this.#answer = answer;
    for (const device of answer.devices) {
      // The event of the stall was sent before this program started to watch.
      const reason = before.has(device.identifier) ? undefined : stalledReason(device);
      if (reason !== undefined)
        this.note(`${device.device ?? "-"}  ${reason}`, new Date(nowMs).toISOString());
    }
    this.#samples = new Map(
      answer.devices.map((device) => [
        device.identifier,
        sampleOf(device, before.get(device.identifier), nowMs),
      ]),
    );
  }

  /** Adds a line for an event. State changes show in the table. */
  happened(event: DeviceEvent): void {
    if (event.event !== "state") this.note(formatEvent(event).slice(event.at.length).trim(), event.at);
  }

  note(text: string, at: string): void {
    const time = new Date(at).toTimeString().slice(0, 8);
    this.#events.push(`${time}  ${printable(text).replaceAll("/dev/", "")}`);
    if (this.#events.length > MAX_EVENTS) this.#events.shift();
  }

  /**
   * The devices, urgent ones first. If not all can be shown, the busiest ones come next; otherwise they are ordered by
   * index.
   */
  rows(nowMs: number, capacity: number): Row[] {
    const rows = this.devices.map((status) => this.#row(status, nowMs));
    const isCrowded = rows.length > capacity;
    const busy = (row: Row): number =>
      isCrowded && row.urgency === CALM ? octave(row.requestsPerSecond) : 0;
    return rows.sort(
      (a, b) => a.urgency - b.urgency || busy(b) - busy(a) || (a.status.index ?? -1) - (b.status.index ?? -1),
    );
  }

  #row(status: DeviceStatus, nowMs: number): Row {
    const sample = this.#samples.get(status.identifier);
    const { lastFailover } = status;
    const failoverAgeMs = lastFailover === null ? NEWS_MS : nowMs - Date.parse(lastFailover.at);
    const hasNews = failoverAgeMs < NEWS_MS || nowMs - (sample?.failedAtMs ?? 0) < NEWS_MS;
    return {
      status,
      requestsPerSecond: sample?.requestsPerSecond ?? null,
      readBytesPerSecond: sample?.readBytesPerSecond ?? null,
      urgency: URGENCY[status.state] ?? (hasNews ? RECOVERED : CALM),
    };
  }
}

/** Coarse steps, so that small changes of the rate do not reorder the rows. */
const octave = (rate: number | null): number => Math.floor(Math.log2((rate ?? 0) + 1));

function sampleOf(device: DeviceStatus, before: Sample | undefined, atMs: number): Sample {
  const { requests, readBytes, readErrors } = device.counters;
  const now = { atMs, requests, readBytes, readErrors };
  if (before === undefined) {
    // Former managers do not send it.
    const recent = device.recent ?? null;
    return {
      ...now,
      requestsPerSecond: recent?.requestsPerSecond ?? null,
      readBytesPerSecond: recent?.readBytesPerSecond ?? null,
      failedAtMs: 0,
    };
  }
  const failedAtMs = readErrors > before.readErrors ? atMs : before.failedAtMs;
  const intervalMs = atMs - before.atMs;
  if (intervalMs < MIN_INTERVAL_MS) return { ...before, readErrors, failedAtMs };
  const perSecond = (difference: number): number => Math.max(0, difference) / (intervalMs / 1000);
  return {
    ...now,
    requestsPerSecond: perSecond(requests - before.requests),
    readBytesPerSecond: perSecond(readBytes - before.readBytes),
    failedAtMs,
  };
}
