/** The live table: what is shown first, and how it fits any terminal. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { width } from "../../../../src/cli/live/cells.ts";
import { Fleet } from "../../../../src/cli/live/fleet.ts";
import { renderFrame } from "../../../../src/cli/live/frame.ts";
import type { DeviceStatus } from "../../../../src/control/protocol.ts";
import { device, manager, NOW_MS } from "./sample.ts";

const STATES = [
  "serving",
  "taking-over",
  "reconnecting",
  "stalled",
  "failed",
  "attaching",
  "detaching",
] as const;

function frame(
  devices: readonly DeviceStatus[],
  columns: number,
  rows: number,
  isColoured = false,
): string[] {
  const fleet = new Fleet();
  fleet.heard({ devices, notes: [], manager }, NOW_MS);
  return renderFrame(fleet, { columns, rows, isColoured, nowMs: NOW_MS });
}

const failedOver = (agoMs: number): DeviceStatus["lastFailover"] => ({
  result: "recovered",
  level: "takeover",
  cause: "worker 1 was killed by SIGKILL",
  causeClass: "worker-exit",
  stallMs: 14.2,
  at: new Date(NOW_MS - agoMs).toISOString(),
  strandedReads: 3,
});

describe("a frame", () => {
  const recent = {
    seconds: 5,
    requestsPerSecond: 1234,
    readBytesPerSecond: 50 << 20,
    p50Ms: 0.09,
    p99Ms: 1.7,
  };
  const two = [
    device(0, { mountPoints: ["/mnt/a"], recent }),
    device(12, {
      state: "stalled",
      lastFailover: failedOver(180_000),
      source: { type: "file", uri: "/images/other.erofs", sizeBytes: 1 },
    }),
  ];

  test("shows everything, devices that need attention first", () => {
    const lines = frame(two, 120, 12);
    expect(lines).toHaveLength(12);
    expect(lines[0]).toMatch(/^2 devices: 1 serving, 1 stalled +\d\d:\d\d:\d\d$/);
    expect(lines.slice(1, 4).map((line) => line.trimEnd())).toEqual(
      [
        "DEVICE  STATE    IMAGE        MOUNTED  READS/S  MIB/S  P50/P99 MS  LAST FAILOVER",
        "nbd12   stalled  other.erofs  -              -      -           -  takeover in 14ms, 3m ago",
        "nbd0    serving  tree.erofs   /mnt/a      1234     50    0.09/1.7  -",
      ].map((line) => line),
    );
    expect(lines.at(-2)).toBe("1234 reads/s · 50 MiB/s · 0 takeovers · 0 reconnects · 0 read errors");
    expect(lines.at(-1)).toBe(
      "manager 4711 up 3h · worker 4712: 2 links · worker 4713 starts · 118.0 MiB · Ctrl-C ends",
    );
  });

  test("fits 80 columns with everything in it, also while a device reconnects", () => {
    const busy = [
      ...two,
      device(499, {
        state: "reconnecting",
        mountPoints: ["/srv/containers/web"],
        recent,
        lastFailover: failedOver(5000),
      }),
    ];
    const lines = frame(busy, 80, 24);
    for (const line of lines) expect(width(line)).toBeLessThanOrEqual(80);
    expect(lines[1]).toMatch(/^DEVICE STATE +IMAGE +MOUNTED +READS\/S +MIB\/S +P50\/P99 MS FAILOVER *$/);
    expect(lines.join("\n")).toContain("takeover 14ms 3m");
    expect(lines.join("\n")).toMatch(/nbd499 reconnecting/);
  });

  test("of 500 devices shows a summary, those that need attention, the busiest, and the number of the others", () => {
    const devices = [...Array(500).keys()].map((index) =>
      device(index, {
        state: index === 77 ? "failed" : index === 300 ? "taking-over" : "serving",
        recent: { ...recent, requestsPerSecond: index === 450 ? 9000 : 1 },
        ...(index === 20 ? { lastFailover: failedOver(10_000) } : {}),
      }),
    );
    const lines = frame(devices, 80, 24);
    expect(lines).toHaveLength(24);
    expect(lines[0]).toMatch(/^500 devices: 498 serving, 1 taking-over, 1 failed/);
    const first = lines.slice(2, 6).map((line) => /^nbd\d+ +\S+/.exec(line)?.[0].replace(/ +/, " "));
    expect(first).toEqual(["nbd77 failed", "nbd300 taking-over", "nbd20 serving", "nbd450 serving"]);
    expect(lines.find((line) => line.startsWith("…"))).toMatch(/^… and 481 more: 481 serving$/);
  });

  test("with room for all devices shows them in the order of their numbers", () => {
    const devices = [3, 1, 2].map((index) =>
      device(index, { recent: { ...recent, requestsPerSecond: index } }),
    );
    expect(
      frame(devices, 80, 24)
        .slice(2, 5)
        .map((line) => line.slice(0, 4)),
    ).toEqual(["nbd1", "nbd2", "nbd3"]);
  });

  test("shows images of the same name with their directories", () => {
    const source = (uri: string) => ({ type: "file", uri, sizeBytes: 1 }) as const;
    const lines = frame(
      [
        device(0, { source: source("/a/x.erofs") }),
        device(1, { source: source("/b/x.erofs") }),
        device(2, { source: source("/c/y.erofs") }),
      ],
      120,
      24,
    );
    expect(lines.slice(2, 5).map((line) => line.split(/ +/)[2])).toEqual([
      "/a/x.erofs",
      "/b/x.erofs",
      "y.erofs",
    ]);
  });

  test("shortens names so that they still differ: an ending that all have is left out first", () => {
    const name = (letter: string) => `image-of-something-that-is-called-very-much-alike-${letter}.erofs`;
    const at = (index: number, uri: string) => device(index, { source: { type: "file", uri, sizeBytes: 1 } });
    const images = (uris: readonly string[], columns: number): Array<string | undefined> =>
      frame(
        uris.map((uri, index) => at(index, uri)),
        columns,
        24,
      )
        .slice(2, 2 + uris.length)
        .map((line) => line.split(/ +/)[2]);
    const narrow = images(["a", "b"].map(name), 60);
    expect(narrow[0]).toMatch(/….*-a$/);
    expect(narrow[1]).toMatch(/….*-b$/);
    expect(images(["a", "b"].map(name), 200)).toEqual(["a", "b"].map(name));
    expect(images([name("a"), "/x/other.img"], 60)[0]).toMatch(/erofs$/);
  });

  test("shows no control character of a file name", () => {
    const source = { type: "file", uri: "/x\u001b[2J\r\n.erofs", sizeBytes: 1 } as const;
    const text = frame([device(0, { source, mountPoints: ["/m\u0007"] })], 120, 24).join("\n");
    for (const control of ["\u001b", "\r", "\u0007"]) expect(text).not.toContain(control);
  });

  test("has colours as codes around the same text", () => {
    const plain = frame(two, 100, 20);
    const coloured = frame(two, 100, 20, true);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is taken out
    expect(coloured.map((line) => line.replace(/\u001b\[[\d;]*m/g, ""))).toEqual(plain);
    expect(coloured.join("")).toContain("\u001b[31;1mstalled\u001b[0m");
  });

  test("is never wider or higher than the terminal, with any content", () => {
    const status = fc
      .record({
        state: fc.constantFrom(...STATES),
        uri: fc.string({ unit: "grapheme", maxLength: 60 }).map((name) => `/${name}`),
        mountPoints: fc.array(
          fc.string({ unit: "grapheme", maxLength: 40 }).map((name) => `/${name}`),
          { maxLength: 3 },
        ),
        rate: fc.double({ min: 0, max: 1e8, noNaN: true }),
        p99Ms: fc.option(fc.double({ min: 0, max: 1e6, noNaN: true }), { nil: null }),
        failedAgoMs: fc.option(fc.integer({ min: 0, max: 1e9 }), { nil: undefined }),
      })
      .map(({ state, uri, mountPoints, rate, p99Ms, failedAgoMs }) => ({
        state,
        mountPoints,
        source: { type: "file" as const, uri, sizeBytes: 1 },
        recent: { seconds: 5, requestsPerSecond: rate, readBytesPerSecond: rate, p50Ms: p99Ms, p99Ms },
        lastFailover: failedAgoMs === undefined ? null : failedOver(failedAgoMs),
      }));
    fc.assert(
      fc.property(
        fc.array(status, { maxLength: 40 }),
        fc.integer({ min: 20, max: 250 }),
        fc.integer({ min: 5, max: 60 }),
        (changes, columns, rows) => {
          const lines = frame(
            changes.map((change, index) => device(index, change)),
            columns,
            rows,
          );
          expect(lines).toHaveLength(rows);
          for (const line of lines) expect(width(line)).toBeLessThanOrEqual(columns);
        },
      ),
    );
  });
});

test("names and messages from elsewhere cannot control the terminal", () => {
  const hostile = "a\u001b[2J\u009b2J\r\nb\u202e";
  const fleet = new Fleet();
  const named = device(0, {
    source: { ...device(0).source, uri: `/${hostile}` },
    mountPoints: [`/${hostile}`],
  });
  fleet.heard({ devices: [named], notes: [], manager }, NOW_MS);
  fleet.note(hostile, new Date(NOW_MS).toISOString());
  fleet.happened({
    at: new Date(NOW_MS).toISOString(),
    device: "/dev/nbd0",
    event: "stalled",
    message: hostile,
  });
  const text = renderFrame(fleet, { columns: 200, rows: 20, isColoured: false, nowMs: NOW_MS }).join("|");
  expect(text).not.toMatch(/[\p{Cc}\p{Bidi_Control}]/u);
  expect(text.split("a\\x1b[2J\\x9b2J\\x0d\\nb\\u202e")).toHaveLength(5);
});
