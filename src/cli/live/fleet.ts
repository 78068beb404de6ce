/**
 * What the live table knows: the devices as last heard of, their rates since then, the latest events, who serves.
 *
 * Fed by live.ts with answers and events, asked by frame.ts. Pure: no clock, no terminal.
 */
import type { DeviceEvent, DeviceStatus, Requests } from "../../control/protocol.ts";
import { printable } from "../../text/printable.ts";
import { formatEvent, stalledReason } from "../output.ts";

type StatusAnswer = Requests["status"]["result"];

/** A device as the table shows it. */
export interface Row {
  readonly status: DeviceStatus;
  /** Null before there is anything to tell from. */
  readonly requestsPerSecond: number | null;
  readonly readBytesPerSecond: number | null;
  /** 0 is the most urgent, CALM none at all. */
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
/** How long a failover or a read error keeps a device among those that need a look. */
const NEWS_MS = 60_000;
/** Between two answers that are this near, a rate would be noise. */
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
  /** Why nothing new is heard, where that is so. */
  silence: string | undefined;

  get manager(): StatusAnswer["manager"] {
    return this.#answer?.manager;
  }

  get devices(): readonly DeviceStatus[] {
    return this.#answer?.devices ?? [];
  }

  /** Lines about what happened, the latest last, without their date. */
  get events(): readonly string[] {
    return this.#events;
  }

  heard(answer: StatusAnswer, nowMs: number): void {
    const before = this.#samples;
    this.#answer = answer;
    for (const device of answer.devices) {
      // Its event was told before anybody looked.
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

  /** States come and go in the table; what else happens is worth a line. */
  happened(event: DeviceEvent): void {
    if (event.event !== "state") this.note(formatEvent(event).slice(event.at.length).trim(), event.at);
  }

  note(text: string, at: string): void {
    const time = new Date(at).toTimeString().slice(0, 8);
    this.#events.push(`${time}  ${printable(text).replaceAll("/dev/", "")}`);
    if (this.#events.length > MAX_EVENTS) this.#events.shift();
  }

  /**
   * The devices, those that need a look first. Where not all can be shown, the busy ones come next; else they keep their
   * places, by number.
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

/** So that rows do not change places with every little change of their rate. */
const octave = (rate: number | null): number => Math.floor(Math.log2((rate ?? 0) + 1));

function sampleOf(device: DeviceStatus, before: Sample | undefined, atMs: number): Sample {
  const { requests, readBytes, readErrors } = device.counters;
  const now = { atMs, requests, readBytes, readErrors };
  if (before === undefined) {
    // A former version's manager does not tell.
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
