/**
 * Renders a manager's figures in the Prometheus text format, version 0.0.4. Pure; served by metrics-server.ts.
 *
 * Counters count from the manager's start, those of a device from its attach. A device takes six lines. Histograms are
 * for all devices together. Label values come from fixed lists, or are names of nbd devices.
 */
import { STATES } from "../../supervisor/device-state.ts";
import { CAUSE_CLASSES, LEVELS, RESULTS, STALL_BUCKETS_SECONDS } from "./failover-tally.ts";
import type { DeviceFigures, Figures } from "./observatory.ts";

export const CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number, suffix?: string];

/** A detached device has no lines any more. */
const SHOWN_STATES = STATES.filter((state) => state !== "detached");
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
    family("build_info", "gauge", "The running version.", [
      [{ version: vitals.version, node: process.versions.node }, 1],
    ]),
    family("start_time_seconds", "gauge", "When the manager started, in Unix time.", [
      [NONE, Date.parse(vitals.startedAt) / 1000],
    ]),
    family("workers", "gauge", "Worker processes.", [
      [{ state: "ready" }, ready],
      [{ state: "starting" }, workers.length - ready],
    ]),
    family("worker_exits_total", "counter", "Workers that died, or were killed because they hung.", [
      [{ how: "died" }, figures.workerExits.died],
      [{ how: "hung" }, figures.workerExits.hung],
    ]),
    family("resident_memory_bytes", "gauge", "Resident memory; workers are numbered.", [
      [{ process: "manager" }, vitals.residentBytes],
      ...memory,
    ]),
    family("event_loop_lag_seconds", "gauge", "Longest recent delay of the manager's event loop.", [
      [NONE, figures.lagSeconds],
    ]),
    family("oldest_request_age_seconds", "gauge", "Age of the oldest unanswered request.", [
      [NONE, figures.oldestRequestSeconds],
    ]),
    family(
      "crash_loop_strikes",
      "gauge",
      "Worker deaths attributed to links that have not served well since.",
      [[NONE, figures.strikes]],
    ),
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
    family("failovers_total", "counter", "Finished failovers.", failovers),
    family("failover_stall_seconds", "histogram", "How long reads stalled in failovers.", stalls),
    family("handovers_total", "counter", "Planned moves of links between workers.", [
      [NONE, tally.handovers],
    ]),
    family(
      "request_duration_seconds",
      "histogram",
      "From receiving a request to sending its reply, all devices.",
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
  const byState = SHOWN_STATES.map(
    (state): Sample => [{ state }, sum((device) => +(device.state === state))],
  );
  return [
    family("devices", "gauge", "Attached devices.", byState),
    family("links", "gauge", "Links between kernel and workers.", [
      [{ state: "up" }, sum(({ linksUp }) => linksUp)],
      [{ state: "down" }, sum(({ linksDown }) => linksDown)],
    ]),
    family(
      "device_state",
      "gauge",
      "1 for the current state of a device.",
      named.map((device) => [{ ...labelOf(device), state: device.state }, 1]),
    ),
    family(
      "device_requests_total",
      "counter",
      "Answered requests.",
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
      "Failed reads.",
      each(({ readErrors }) => readErrors),
    ),
    family(
      "device_request_duration_seconds",
      "summary",
      "Duration of requests by device.",
      named.flatMap((device): Sample[] => [
        [labelOf(device), device.latencySumSeconds, "_sum"],
        [labelOf(device), device.latencyCount, "_count"],
      ]),
    ),
  ];
}

const labelOf = ({ name }: DeviceFigures): Labels => ({ device: name ?? "" });

/** Cumulative buckets, sum and count. `counts` has one number for each upper bound; the last bound is infinite. */
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

/** One metric with its lines; empty if it has no samples. */
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
