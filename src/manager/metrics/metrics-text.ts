/**
 * A manager's figures in Prometheus' text format, version 0.0.4. Pure; the server of it is metrics-server.ts.
 *
 * Counters count since this manager started, those of a device since it was attached. What one device costs is six lines;
 * histograms are of all devices together, and all label values are words from short lists or the names of nbd devices.
 */
import type { DeviceState } from "../../supervisor/device-state.ts";
import { CAUSE_CLASSES, LEVELS, RESULTS, STALL_BUCKETS_SECONDS } from "./failover-tally.ts";
import type { DeviceFigures, Figures } from "./observatory.ts";

export const CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number, suffix?: string];

const STATES: readonly DeviceState[] = [
  "attaching",
  "serving",
  "taking-over",
  "reconnecting",
  "stalled",
  "failed",
  "detaching",
];
const NONE: Labels = {};

/** The whole answer to a scrape. */
export function renderMetrics(figures: Figures): string {
  return [...describeManager(figures), ...describeFailovers(figures), ...describeDevices(figures)].join("");
}

function describeManager({ vitals, ...figures }: Figures): string[] {
  const { workers } = vitals;
  const ready = workers.filter(({ isReady }) => isReady).length;
  const memory: Sample[] = workers.map(({ residentBytes }, at) => [
    { process: `worker-${at + 1}` },
    residentBytes,
  ]);
  return [
    family("build_info", "gauge", "The version that runs.", [
      [{ version: vitals.version, node: process.versions.node }, 1],
    ]),
    family("start_time_seconds", "gauge", "When the manager started, in Unix time.", [
      [NONE, Date.parse(vitals.startedAt) / 1000],
    ]),
    family("workers", "gauge", "Worker processes.", [
      [{ state: "ready" }, ready],
      [{ state: "starting" }, workers.length - ready],
    ]),
    family("worker_exits_total", "counter", "Workers that ended unasked, or were ended because they hung.", [
      [{ how: "died" }, figures.workerExits.died],
      [{ how: "hung" }, figures.workerExits.hung],
    ]),
    family("resident_memory_bytes", "gauge", "Resident memory; a worker is named by its place.", [
      [{ process: "manager" }, vitals.residentBytes],
      ...memory,
    ]),
    family("event_loop_lag_seconds", "gauge", "How late the manager's event loop was at worst lately.", [
      [NONE, figures.lagSeconds],
    ]),
    family("oldest_request_age_seconds", "gauge", "How long the oldest unanswered request has waited.", [
      [NONE, figures.oldestRequestSeconds],
    ]),
    family("crash_loop_strikes", "gauge", "Worker deaths that links are blamed for and have not made good.", [
      [NONE, figures.strikes],
    ]),
  ];
}

function describeFailovers({ tally, latencies }: Figures): string[] {
  const failovers: Sample[] = LEVELS.flatMap((level) =>
    RESULTS.flatMap((result) =>
      CAUSE_CLASSES.map((cause): Sample => [{ level, result, cause }, tally.count(level, result, cause)]),
    ),
  );
  const stalls = LEVELS.flatMap((level) => {
    const { counts, sumSeconds } = tally.stalls(level);
    const ends = [...STALL_BUCKETS_SECONDS, Number.POSITIVE_INFINITY];
    return histogram({ level }, ends, counts, sumSeconds);
  });
  const { doublings, sumSeconds } = latencies;
  const ends = doublings.map(({ upToSeconds }) => upToSeconds);
  const counts = doublings.map(({ count }) => count);
  return [
    family("failovers_total", "counter", "Failovers that have ended.", failovers),
    family("failover_stall_seconds", "histogram", "How long reads stood still in failovers.", stalls),
    family("handovers_total", "counter", "Links handed from worker to worker by plan.", [
      [NONE, tally.handovers],
    ]),
    family(
      "request_duration_seconds",
      "histogram",
      "From a request being received to its reply having left, all devices.",
      histogram(NONE, ends, counts, sumSeconds),
    ),
  ];
}

function describeDevices({ devices }: Figures): string[] {
  const named = devices.filter(({ name }) => name !== undefined);
  const each = (value: (device: DeviceFigures) => number): Sample[] =>
    named.map((device) => [labelOf(device), value(device)]);
  const sum = (value: (device: DeviceFigures) => number): number =>
    devices.reduce((total, device) => total + value(device), 0);
  const byState = STATES.map((state): Sample => [{ state }, sum((device) => +(device.state === state))]);
  return [
    family("devices", "gauge", "Attached devices.", byState),
    family("links", "gauge", "Links between kernel and workers.", [
      [{ state: "up" }, sum(({ linksUp }) => linksUp)],
      [{ state: "down" }, sum(({ linksDown }) => linksDown)],
    ]),
    family(
      "device_state",
      "gauge",
      "1 for the state that a device is in.",
      named.map((device) => [{ ...labelOf(device), state: device.state }, 1]),
    ),
    family(
      "device_requests_total",
      "counter",
      "Requests answered.",
      each(({ requests }) => requests),
    ),
    family(
      "device_read_bytes_total",
      "counter",
      "Bytes read.",
      each(({ readBytes }) => readBytes),
    ),
    family(
      "device_read_errors_total",
      "counter",
      "Reads that failed.",
      each(({ readErrors }) => readErrors),
    ),
    family(
      "device_request_duration_seconds",
      "summary",
      "How long a device's requests took.",
      named.flatMap((device): Sample[] => [
        [labelOf(device), device.latencySumSeconds, "_sum"],
        [labelOf(device), device.latencyCount, "_count"],
      ]),
    ),
  ];
}

const labelOf = ({ name }: DeviceFigures): Labels => ({ device: name ?? "" });

/** Cumulated buckets, sum and count. `counts` has one number for each end, the last of which is infinite. */
function histogram(
  labels: Labels,
  ends: readonly number[],
  counts: readonly number[],
  sumSeconds: number,
): Sample[] {
  let total = 0;
  const buckets = ends.map((end, at): Sample => {
    total += counts[at] ?? 0;
    return [{ ...labels, le: numeral(end) }, total, "_bucket"];
  });
  return [...buckets, [labels, sumSeconds, "_sum"], [labels, total, "_count"]];
}

/** One metric with its lines; nothing at all where it has none. */
function family(name: string, type: string, help: string, samples: readonly Sample[]): string {
  if (samples.length === 0) return "";
  const full = `erofs_nbd_${name}`;
  const lines = samples.map(
    ([labels, value, suffix = ""]) => `${full}${suffix}${labelText(labels)} ${numeral(value)}\n`,
  );
  return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join("")}`;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join()}}`;
}

const escaped = (value: string): string =>
  value.replace(/[\\"\n]/g, (found) => (found === "\n" ? "\\n" : `\\${found}`));

const numeral = (value: number): string => (value === Number.POSITIVE_INFINITY ? "+Inf" : String(value));
