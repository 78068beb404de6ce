/**
 * Renders one frame of the live table as lines: summary, devices, latest events, totals, manager and workers.
 *
 * Pure. Used by live.ts with the data of a Fleet and the size of the screen. On narrow terminals columns shrink or are
 * left out; devices that do not fit are summed up in one line.
 */
import type { DeviceStatus } from "../../control/protocol.ts";
import { plural } from "../../text/plural.ts";
import { printable } from "../../text/printable.ts";
import { formatSize } from "../../text/sizes.ts";
import { age, count, latency, pad, paint, type Style, shorten, span } from "./cells.ts";
import { CALM, type Fleet, type Row } from "./fleet.ts";
import { layOut, type TableRow } from "./layout.ts";

export interface FrameOptions {
  readonly columns: number;
  readonly rows: number;
  readonly isColoured: boolean;
  /** Unix time. */
  readonly nowMs: number;
}

const STATE_STYLES: Record<DeviceStatus["state"], readonly Style[]> = {
  serving: ["green"],
  "taking-over": ["yellow"],
  reconnecting: ["yellow", "bold"],
  stalled: ["red", "bold"],
  failed: ["red", "bold"],
  attaching: ["cyan"],
  detaching: ["cyan"],
  detached: ["dim"],
};
const STATES = Object.keys(STATE_STYLES) as DeviceStatus["state"][];

/** The summary, the header and the two lines at the bottom. */
const FURNITURE_LINES = 4;
const MAX_EVENT_LINES = 6;

export function renderFrame(fleet: Fleet, options: FrameOptions): string[] {
  const { columns, rows, isColoured, nowMs } = options;
  const room = Math.max(1, rows - FURNITURE_LINES);
  const devices = fleet.devices.length;
  const reserved = Math.min(fleet.events.length, Math.floor(rows / 8), MAX_EVENT_LINES);
  const capacity = Math.max(1, room - (reserved > 0 ? reserved + 1 : 0));
  const isCrowded = devices > capacity;
  const shown = fleet.rows(nowMs, capacity).slice(0, isCrowded ? capacity - 1 : capacity);
  const lines = [summary(fleet, options), ...table(fleet, shown, options)];
  if (isCrowded) lines.push(paint(shorten(theRest(fleet, shown), columns, "end"), isColoured, "dim"));
  const eventRoom = Math.min(rows - 2 - lines.length - 1, MAX_EVENT_LINES);
  if (eventRoom > 0 && fleet.events.length > 0) {
    lines.push("");
    for (const event of fleet.events.slice(-eventRoom))
      lines.push(paint(shorten(event, columns, "end"), isColoured, "dim"));
  }
  while (lines.length < rows - 2) lines.push("");
  return [...lines, totals(fleet, options), processes(fleet, options)];
}

/** The number of devices by state, and the time. */
function summary(fleet: Fleet, { columns, isColoured, nowMs }: FrameOptions): string {
  const clock = new Date(nowMs).toTimeString().slice(0, 8);
  const { devices, silence } = fleet;
  const states = STATES.map((state) => ({
    state,
    many: devices.filter((device) => device.state === state).length,
  })).filter(({ many }) => many > 0);
  const plain = states.map(({ state, many }) => `${many} ${state}`);
  const named = plural(devices.length, "device");
  const head = silence ?? (devices.length === 0 ? "no devices attached" : `${named}: ${plain.join(", ")}`);
  const text = shorten(head, columns - clock.length - 1, "end");
  const gap = pad("", columns - clock.length - text.length, "left");
  if (silence !== undefined) return paint(text, isColoured, "yellow", "bold") + gap + clock;
  const isCut = text !== head;
  const coloured = states.map(({ state, many }) =>
    paint(`${many} ${state}`, isColoured, ...STATE_STYLES[state]),
  );
  const painted = isCut || devices.length === 0 ? text : `${named}: ${coloured.join(", ")}`;
  return painted + gap + clock;
}

function table(fleet: Fleet, shown: readonly Row[], { columns, isColoured, nowMs }: FrameOptions): string[] {
  const isStale = fleet.silence !== undefined;
  const names = shortNames(fleet.devices);
  const rows = shown.map((row) => toTableRow(row, names, nowMs));
  const { heads, lines } = layOut(rows, columns);
  return [
    paint(pad(heads, columns, "left"), isColoured, "inverse"),
    ...lines.map(({ before, state, after }, at) => {
      if (isStale) return paint(before + state + after, isColoured, "dim");
      const styles = STATE_STYLES[shown[at]?.status.state ?? "serving"];
      return before + paint(state, isColoured, ...styles) + after;
    }),
  ];
}

function toTableRow(row: Row, names: ReadonlyMap<DeviceStatus, string>, nowMs: number): TableRow {
  const { status, requestsPerSecond, readBytesPerSecond } = row;
  const { mountPoints, lastFailover, recent } = status;
  const [first = "-", ...more] = mountPoints.map(printable);
  const p50Ms = recent?.p50Ms ?? null;
  const p99Ms = recent?.p99Ms ?? null;
  const failover = lastFailover === null ? undefined : describeFailover(lastFailover, nowMs);
  return {
    device: status.device?.replace("/dev/", "") ?? "-",
    state: status.state,
    image: names.get(status) ?? "-",
    mount: more.length === 0 ? first : `${first} +${more.length}`,
    reads: requestsPerSecond === null ? "-" : count(requestsPerSecond),
    mebibytes: readBytesPerSecond === null ? "-" : count(readBytesPerSecond / (1 << 20)),
    latencies: p50Ms === null || p99Ms === null ? "-" : `${latency(p50Ms)}/${latency(p99Ms)}`,
    failover: failover?.long ?? "-",
    shortFailover: failover?.short ?? "-",
  };
}

function describeFailover(
  { result, level, stallMs, at }: NonNullable<DeviceStatus["lastFailover"]>,
  nowMs: number,
): { long: string; short: string } {
  const what = result === "failed" ? "failed" : level;
  const ago = age(nowMs - Date.parse(at));
  return { long: `${what} in ${span(stallMs)}, ${ago} ago`, short: `${what} ${span(stallMs)} ${ago}` };
}

/** File names of images; full paths where file names are ambiguous. */
function shortNames(devices: readonly DeviceStatus[]): Map<DeviceStatus, string> {
  const base = (path: string): string => path.slice(path.lastIndexOf("/") + 1);
  const paths = new Map<string, Set<string>>();
  for (const { source } of devices) {
    const same = paths.get(base(source.uri)) ?? new Set();
    paths.set(base(source.uri), same.add(source.uri));
  }
  return new Map(
    devices.map((device) => {
      const { uri } = device.source;
      const isAmbiguous = (paths.get(base(uri))?.size ?? 0) > 1;
      return [device, printable(isAmbiguous ? uri : base(uri))];
    }),
  );
}

/** "… and 462 more: 460 serving, 2 attaching". */
function theRest(fleet: Fleet, shown: readonly Row[]): string {
  const seen = new Set(shown.map(({ status }) => status));
  const rest = fleet.devices.filter((device) => !seen.has(device));
  const parts = STATES.map(
    (state) => [state, rest.filter((device) => device.state === state).length] as const,
  )
    .filter(([, many]) => many > 0)
    .map(([state, many]) => `${many} ${state}`);
  return `… and ${rest.length} more: ${parts.join(", ")}`;
}

function totals(fleet: Fleet, { columns, isColoured, nowMs }: FrameOptions): string {
  const rows = fleet.rows(nowMs, Number.POSITIVE_INFINITY);
  const sum = (value: (row: Row) => number | null): number =>
    rows.reduce((total, row) => total + (value(row) ?? 0), 0);
  const reads = count(sum(({ requestsPerSecond }) => requestsPerSecond));
  const mebibytes = count(sum(({ readBytesPerSecond }) => readBytesPerSecond) / (1 << 20));
  const counters = (name: keyof DeviceStatus["counters"]): number =>
    sum(({ status }) => status.counters[name]);
  const failed = counters("failedFailovers");
  const errors = counters("readErrors");
  const text = [
    `${reads} reads/s`,
    `${mebibytes} MiB/s`,
    `${counters("takeovers")} takeovers`,
    `${counters("reconnects")} reconnects`,
    ...(failed > 0 ? [`${failed} failed`] : []),
    plural(errors, "read error"),
  ].join(" · ");
  const urgent = rows.some(({ urgency }) => urgency < CALM - 1) || errors > 0;
  return paint(shorten(text, columns, "end"), isColoured, ...(urgent ? (["bold"] as const) : []));
}

function processes({ manager, silence }: Fleet, { columns, isColoured, nowMs }: FrameOptions): string {
  if (manager === undefined || silence !== undefined)
    return paint(shorten("Ctrl-C ends", columns, "end"), isColoured, "dim");
  const { workers } = manager;
  const memory = workers.reduce((sum, worker) => sum + worker.residentBytes, manager.residentBytes);
  const each = workers.map(({ pid, links, isReady }) =>
    isReady ? `worker ${pid}: ${plural(links, "link")}` : `worker ${pid} starts`,
  );
  const text = [
    `manager ${manager.pid} up ${age(nowMs - Date.parse(manager.startedAt))}`,
    ...each,
    formatSize(memory),
    "Ctrl-C ends",
  ].join(" · ");
  return paint(shorten(text, columns, "end"), isColoured, "dim");
}
