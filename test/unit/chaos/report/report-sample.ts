/**
 * A run as a device under chaos leaves it, made up from a seed: what the report's tests and the eye look at.
 *
 * Not a test. The same arguments give the same run. Takeovers take tens of milliseconds, reconnects one to two seconds.
 */
import type { ChaosRun, Fault, FaultKind, KindSummary, LatencyPoint } from "../../../../src/chaos/run.ts";

const KINDS: readonly FaultKind[] = ["worker", "hang", "link", "manager", "both", "upgrade"];
const SPAN_MS = 500;

/** Most faults are recovered from quickly, as with the default options. */
const WEIGHTS: Readonly<Record<FaultKind, number>> = {
  worker: 60,
  hang: 5,
  link: 5,
  manager: 10,
  both: 3,
  upgrade: 17,
};

function drawKind(what: readonly FaultKind[], share: number): FaultKind | undefined {
  const sum = what.reduce((all, kind) => all + WEIGHTS[kind], 0);
  let left = share * sum;
  return what.find((kind) => {
    left -= WEIGHTS[kind];
    return left <= 0;
  });
}

/** Numbers from 0 to 1 by a multiplicative generator. */
function numbers(seed: number): () => number {
  let state = seed % 2_147_483_647;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

export interface SampleOptions {
  readonly seed?: number;
  readonly durationMs?: number;
  readonly faults?: number;
  readonly what?: readonly FaultKind[];
  /** With faults that were not recovered, and problems. */
  readonly isFailed?: boolean;
}

export function sampleRun(options: SampleOptions = {}): ChaosRun {
  const {
    seed = 42,
    durationMs: lasting = 300_000,
    faults: wanted = 280,
    what = KINDS,
    isFailed = false,
  } = options;
  const random = numbers(seed);
  const faults: Fault[] = [];
  for (let atMs = 4_000; faults.length < wanted; atMs += (lasting - 4_000) / wanted) {
    const kind = faults.length < what.length ? what[faults.length] : drawKind(what, random());
    const fault = sampleFault(kind ?? "worker", atMs, random, isFailed && faults.length % 41 === 29);
    faults.push(fault);
    atMs += fault.longestReadMs + random() * 300;
  }
  const durationMs = Math.max(
    lasting,
    ...faults.slice(-1).map((fault) => fault.atMs + fault.longestReadMs + 2_000),
  );
  const latency = sampleLatency(faults, durationMs, random);
  const reads = latency.reduce((sum, point) => sum + point.reads, 0);
  const waits = faults.map((fault) => fault.longestReadMs);
  const usual = latency.filter((point) => point.atMs + SPAN_MS <= (faults[0]?.atMs ?? durationMs));
  return {
    version: "0.2.0",
    kernel: "6.12.48+deb13-cloud-amd64",
    nodeVersion: "v20.19.5",
    device: "/dev/nbd0",
    image: "/srv/images/debian-13-root.erofs",
    imageBytes: 113_045_504,
    seed,
    startedAt: "2026-11-23T18:04:12.345Z",
    durationMs,
    intervalMs: 1000,
    what: [...what],
    depth: 8,
    faults,
    latency,
    kinds: [
      summaryOf(
        "none",
        usual.map((point) => point.maxMs),
        [],
      ),
      ...what.map((kind) => {
        const mine = faults.filter((fault) => fault.kind === kind);
        return summaryOf(
          kind,
          mine.map((fault) => fault.longestReadMs),
          mine,
        );
      }),
    ],
    baseline: {
      reads: usual.reduce((sum, point) => sum + point.reads, 0),
      p50Ms: 0.92,
      p99Ms: 4.1,
      p999Ms: 9.7,
      longestMs: Math.max(...usual.map((point) => point.maxMs), 0.1),
    },
    totals: {
      reads,
      bytes: latency.reduce((sum, point) => sum + point.bytes, 0),
      wrong: isFailed ? 1 : 0,
      errors: isFailed ? 3 : 0,
      uncounted: isFailed ? 2 : 0,
      p50Ms: 0.95,
      p99Ms: 6.4,
      p999Ms: 38.2,
      longestMs: Math.max(0, ...waits, ...latency.map((point) => point.maxMs)),
    },
    verdict: isFailed ? "failed" : "passed",
    problems: isFailed
      ? [
          "reads of 4096 bytes at 73400320 brought other bytes than the image",
          "after SIGKILL to worker 4712 at 61.3 s no failover was reported within 10 s",
          "the counters say 3 reconnects, the events 4",
        ]
      : [],
  };
}

function sampleFault(kind: FaultKind, atMs: number, random: () => number, isLost: boolean): Fault {
  const spread = Math.exp((random() + random() + random() - 1.5) * 0.8);
  const pid = 2000 + Math.floor(random() * 30_000);
  const isReconnect = kind === "link" || kind === "both" || (kind === "worker" && random() < 0.03);
  const level = kind === "manager" || kind === "upgrade" ? "none" : isReconnect ? "reconnect" : "takeover";
  const typicalMs = { worker: 26, hang: 1700, link: 1250, manager: 6, both: 1500, upgrade: 5 }[kind];
  const stallMs = isReconnect
    ? 1000 + 1250 * random()
    : kind === "hang"
      ? 1500 + 430 * random()
      : typicalMs * spread;
  const label = {
    worker: `SIGKILL to worker ${pid}`,
    hang: `SIGSTOP to worker ${pid}`,
    link: "link 0 cut",
    manager: `SIGKILL to manager ${pid}`,
    both: `SIGKILL to worker ${pid} and manager ${pid + 1}`,
    upgrade: `upgrade, away from worker ${pid}`,
  }[kind];
  const result = isLost ? "missing" : "recovered";
  const cause = level === "none" ? "" : `worker ${pid} was killed by SIGKILL`;
  return {
    kind,
    atMs,
    label,
    outcome: { level, result, cause: isLost ? "" : cause, stallMs: isLost ? 0 : stallMs },
    longestReadMs: isLost ? 9_400 : stallMs + 2 + 4 * random(),
  };
}

function sampleLatency(faults: readonly Fault[], durationMs: number, random: () => number): LatencyPoint[] {
  const points: LatencyPoint[] = [];
  for (let atMs = 0; atMs < durationMs; atMs += SPAN_MS) {
    const endMs = atMs + SPAN_MS;
    const ended = faults.filter(
      (fault) => fault.atMs + fault.longestReadMs >= atMs && fault.atMs + fault.longestReadMs < endMs,
    );
    const blockedMs = faults.reduce((sum, { atMs: begin, longestReadMs }) => {
      return sum + Math.max(0, Math.min(endMs, begin + longestReadMs) - Math.max(atMs, begin));
    }, 0);
    const share = Math.max(0, 1 - blockedMs / SPAN_MS);
    const reads =
      share < 0.01 && ended.length === 0 ? 0 : Math.round(1 + 900 * share * (0.85 + 0.3 * random()));
    const usualMs = 5 * Math.exp((random() + random() - 1) * 0.9);
    const maxMs = Math.max(usualMs, ...ended.map((fault) => fault.longestReadMs));
    const p99Ms = Math.min(maxMs, 3.2 * (0.8 + 0.5 * random()) * (ended.length > 0 ? 2.2 : 1));
    points.push({
      atMs,
      reads,
      bytes: reads * 36_864,
      p50Ms: reads === 0 ? 0 : 0.9 * (0.9 + 0.2 * random()),
      p99Ms: reads === 0 ? 0 : p99Ms,
      maxMs: reads === 0 ? 0 : maxMs,
    });
  }
  return points;
}

function summaryOf(
  kind: KindSummary["kind"],
  waits: readonly number[],
  faults: readonly Fault[],
): KindSummary {
  const sorted = [...waits].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  return {
    kind,
    count: waits.length,
    takeovers: faults.filter((fault) => fault.outcome?.level === "takeover").length,
    reconnects: faults.filter((fault) => fault.outcome?.level === "reconnect").length,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    longestMs: sorted.at(-1) ?? 0,
  };
}
