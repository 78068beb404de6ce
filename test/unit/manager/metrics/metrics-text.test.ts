/** metrics-text.ts: the format, checked by a strict parser; each figure; the size for 500 devices. */
import { describe, expect, test } from "vitest";
import { addLatency, LATENCY_WORDS, summarise } from "../../../../src/journal/latency.ts";
import { FailoverTally } from "../../../../src/manager/metrics/failover-tally.ts";
import { renderMetrics } from "../../../../src/manager/metrics/metrics-text.ts";
import type { DeviceFigures, Figures } from "../../../../src/manager/metrics/observatory.ts";
import { parsePrometheusText } from "../../../helpers/prometheus-text.ts";

const device = (changes: Partial<DeviceFigures> = {}): DeviceFigures => ({
  name: "nbd0",
  state: "serving",
  requests: 12,
  readBytes: 49_152,
  readErrors: 1,
  latencyCount: 11,
  latencySumSeconds: 0.5,
  linksUp: 1,
  linksDown: 0,
  ...changes,
});

function figures(changes: Partial<Figures> = {}): Figures {
  const latencies = new Float64Array(LATENCY_WORDS);
  for (const milliseconds of [0.01, 0.3, 0.3, 2, 1e6]) addLatency(latencies, milliseconds);
  return {
    vitals: {
      pid: 7,
      version: 'a "b"\\c\nd',
      startedAt: "2026-01-02T03:04:05.000Z",
      residentBytes: 50_000_000,
      workers: [
        { pid: 8, isReady: true, links: 1, residentBytes: 60_000_000 },
        { pid: 9, isReady: false, links: 0, residentBytes: 0 },
      ],
    },
    devices: [device(), device({ name: "nbd7", state: "reconnecting", linksUp: 0, linksDown: 1 })],
    tally: new FailoverTally(),
    latencies: summarise([...latencies]),
    oldestRequestSeconds: 1.25,
    strikes: 2.5,
    workerExits: { died: 3, hung: 1 },
    lagSeconds: 0.004,
    ...changes,
  };
}

/** The value of a sample by its name and labels, as written. */
const numberAt = (text: string, sample: string): number | undefined => {
  const line = text.split("\n").find((one) => one.startsWith(`${sample} `));
  return line === undefined ? undefined : Number(line.slice(sample.length + 1));
};

describe("the text", () => {
  test("follows the format, with and without devices", () => {
    const families = parsePrometheusText(renderMetrics(figures()));
    expect(families.get("erofs_nbd_failovers_total")?.samples).toHaveLength(16);
    expect(families.get("erofs_nbd_build_info")?.samples[0]?.labels["version"]).toBe('a \\"b\\"\\\\c\\nd');
    parsePrometheusText(renderMetrics(figures({ devices: [], latencies: summarise([]) })));
    parsePrometheusText(
      renderMetrics(figures({ devices: [device({ name: undefined, state: "attaching" })] })),
    );
  });

  test("has the figures of devices, links and processes", () => {
    const text = renderMetrics(figures());
    const values: Record<string, number> = {
      'erofs_nbd_devices{state="serving"}': 1,
      'erofs_nbd_devices{state="reconnecting"}': 1,
      'erofs_nbd_devices{state="failed"}': 0,
      'erofs_nbd_links{state="up"}': 1,
      'erofs_nbd_links{state="down"}': 1,
      'erofs_nbd_device_state{device="nbd7",state="reconnecting"}': 1,
      'erofs_nbd_device_requests_total{device="nbd0"}': 12,
      'erofs_nbd_device_read_bytes_total{device="nbd0"}': 49_152,
      'erofs_nbd_device_read_errors_total{device="nbd0"}': 1,
      'erofs_nbd_device_request_duration_seconds_sum{device="nbd0"}': 0.5,
      'erofs_nbd_device_request_duration_seconds_count{device="nbd0"}': 11,
      'erofs_nbd_workers{state="ready"}': 1,
      'erofs_nbd_workers{state="starting"}': 1,
      'erofs_nbd_worker_exits_total{how="hung"}': 1,
      'erofs_nbd_resident_memory_bytes{process="manager"}': 50_000_000,
      'erofs_nbd_resident_memory_bytes{process="worker-1"}': 60_000_000,
      erofs_nbd_oldest_request_age_seconds: 1.25,
      erofs_nbd_crash_loop_strikes: 2.5,
      erofs_nbd_event_loop_lag_seconds: 0.004,
      erofs_nbd_start_time_seconds: Date.UTC(2026, 0, 2, 3, 4, 5) / 1000,
    };
    for (const [sample, value] of Object.entries(values))
      expect([sample, numberAt(text, sample)]).toEqual([sample, value]);
  });

  test("counts failovers by level, result and cause, and their stalls", () => {
    const tally = new FailoverTally();
    const outcome = { cause: "free text", strandedReads: 3 };
    tally.failover({
      ...outcome,
      level: "takeover",
      result: "recovered",
      causeClass: "worker-exit",
      stallMs: 12,
    });
    tally.failover({
      ...outcome,
      level: "takeover",
      result: "recovered",
      causeClass: "worker-exit",
      stallMs: 25,
    });
    tally.failover({ ...outcome, level: "reconnect", result: "failed", causeClass: "link", stallMs: 1e6 });
    tally.handover();
    const text = renderMetrics(figures({ tally }));
    parsePrometheusText(text);
    expect(text).not.toContain("free text");
    const taken = 'erofs_nbd_failovers_total{level="takeover",result="recovered",cause="worker-exit"}';
    expect(numberAt(text, taken)).toBe(2);
    expect(numberAt(text, 'erofs_nbd_failovers_total{level="reconnect",result="failed",cause="link"}')).toBe(
      1,
    );
    expect(numberAt(text, 'erofs_nbd_failover_stall_seconds_bucket{level="takeover",le="0.01"}')).toBe(0);
    expect(numberAt(text, 'erofs_nbd_failover_stall_seconds_bucket{level="takeover",le="0.025"}')).toBe(2);
    expect(numberAt(text, 'erofs_nbd_failover_stall_seconds_sum{level="takeover"}')).toBeCloseTo(0.037, 9);
    expect(numberAt(text, 'erofs_nbd_failover_stall_seconds_bucket{level="reconnect",le="300"}')).toBe(0);
    expect(numberAt(text, 'erofs_nbd_failover_stall_seconds_count{level="reconnect"}')).toBe(1);
    expect(numberAt(text, "erofs_nbd_handovers_total")).toBe(1);
  });

  test("has buckets for requests in powers of two of 16 µs", () => {
    const text = renderMetrics(figures());
    const upTo = (end: string): number | undefined =>
      numberAt(text, `erofs_nbd_request_duration_seconds_bucket{le="${end}"}`);
    expect([upTo("0.000016"), upTo("0.000512"), upTo("0.002048"), upTo("134.217728"), upTo("+Inf")]).toEqual([
      1, 3, 4, 4, 5,
    ]);
  });

  test("has six lines for each of 500 devices", () => {
    const devices = [...Array(500).keys()].map((index) => device({ name: `nbd${index}` }));
    const text = renderMetrics(figures({ devices }));
    parsePrometheusText(text);
    const lines =
      text.split("\n").length - renderMetrics(figures({ devices: [device()] })).split("\n").length;
    expect(lines).toBe(499 * 6);
    expect(text.length).toBeLessThan(300_000);
  });
});

test("the parser of this test refuses text in another format", () => {
  const head = "# HELP a_total x\n# TYPE a_total counter\n";
  const bad = [
    "a 1\n",
    `${head}a_total 1\na_total 2\n`,
    `${head}a_total{x="1"} 1 \n`,
    `${head}b_total 1\n`,
    `${head}a_total 1\n${head}a_total{x="1"} 1\n`,
    `${head}a_total{x="1\\q"} 1\n`,
    `${head}a_total one\n`,
    "# HELP a x\n# TYPE a counter\na 1\n",
    '# HELP h x\n# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n',
  ];
  for (const text of bad) expect(() => parsePrometheusText(text), text).toThrow();
});
