/** The live table: what is shown first, how it fits any terminal, and a real terminal that is given back as it was. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { age, count, latency, shorten, span, width } from "../../../src/cli/live/cells.ts";
import { Fleet } from "../../../src/cli/live/fleet.ts";
import { renderFrame } from "../../../src/cli/live/frame.ts";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { until } from "../../helpers/until.ts";
import { deviceStatus, type FakeManager, startFakeManager } from "./fake-manager.ts";

const NOW_MS = Date.parse("2026-01-02T03:10:00.000Z");
const STATES = [
  "serving",
  "taking-over",
  "reconnecting",
  "stalled",
  "failed",
  "attaching",
  "detaching",
] as const;

const device = (index: number, changes: Partial<DeviceStatus> = {}): DeviceStatus =>
  deviceStatus({ device: `/dev/nbd${index}`, index, identifier: `id-${index}`, ...changes });

const manager = {
  pid: 4711,
  version: "0.1.0",
  startedAt: "2026-01-02T00:10:00.000Z",
  residentBytes: 48 << 20,
  workers: [
    { pid: 4712, isReady: true, links: 2, residentBytes: 50 << 20 },
    { pid: 4713, isReady: false, links: 0, residentBytes: 20 << 20 },
  ],
};

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

  test("says everything, those that need a look first", () => {
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

  test("500 devices: the summary, those that need a look, the busiest, and how many more", () => {
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

  test("all of them in their places, by number, where there is room", () => {
    const devices = [3, 1, 2].map((index) =>
      device(index, { recent: { ...recent, requestsPerSecond: index } }),
    );
    expect(
      frame(devices, 80, 24)
        .slice(2, 5)
        .map((line) => line.slice(0, 4)),
    ).toEqual(["nbd1", "nbd2", "nbd3"]);
  });

  test("images of the same name are shown with their directories", () => {
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

  test("names that must be shortened differ in what is left: an ending that all have goes first", () => {
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

  test("what a file is called cannot reach the terminal", () => {
    const source = { type: "file", uri: "/x\u001b[2J\r\n.erofs", sizeBytes: 1 } as const;
    const text = frame([device(0, { source, mountPoints: ["/m\u0007"] })], 120, 24).join("\n");
    for (const control of ["\u001b", "\r", "\u0007"]) expect(text).not.toContain(control);
  });

  test("colours are codes around the same text", () => {
    const plain = frame(two, 100, 20);
    const coloured = frame(two, 100, 20, true);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is taken out
    expect(coloured.map((line) => line.replace(/\u001b\[[\d;]*m/g, ""))).toEqual(plain);
    expect(coloured.join("")).toContain("\u001b[31;1mstalled\u001b[0m");
  });

  test("never wider or higher than the terminal, with any content", () => {
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

test("names and words of others do nothing to the terminal", () => {
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

test("rates are of what came between two answers, and a manager begun anew makes none negative", () => {
  const fleet = new Fleet();
  const at = (requests: number): { devices: DeviceStatus[]; notes: string[] } => ({
    devices: [device(0, { counters: { ...device(0).counters, requests, readBytes: requests * 4096 } })],
    notes: [],
  });
  const rate = (): number | null | undefined => fleet.rows(0, 9)[0]?.requestsPerSecond;
  fleet.heard(at(100), 0);
  expect(rate()).toBeNull();
  fleet.heard(at(2100), 2000);
  expect(rate()).toBe(1000);
  // Too near to tell anything.
  fleet.heard(at(2101), 2100);
  expect(rate()).toBe(1000);
  fleet.heard(at(5), 4000);
  expect(rate()).toBe(0);
});

test("a device that is stalled already says why once, as if its event had just come", () => {
  const fleet = new Fleet();
  const answer = {
    devices: [deviceStatus({ state: "stalled", stalledReason: "no worker is ready" })],
    notes: [],
  };
  fleet.heard(answer, 0);
  fleet.heard(answer, 1000);
  expect(fleet.events.map((line) => line.slice(10))).toEqual(["nbd0  stalled: no worker is ready"]);
});

test("figures and texts in few columns", () => {
  expect([0, 0.25, 7.46, 99.6, 1234, 12_345, 4e6].map(count)).toEqual([
    "0",
    "0.3",
    "7.5",
    "100",
    "1234",
    "12.3k",
    "4.0M",
  ]);
  expect([0.094, 1.66, 120.4, 12_000].map(latency)).toEqual(["0.09", "1.7", "120", "12s"]);
  expect([14.2, 1180, 75_000].map(span)).toEqual(["14ms", "1.2s", "75s"]);
  expect([-5, 59_999, 60_000, 7.2e6, 3e8].map(age)).toEqual(["0s", "59s", "1m", "2h", "3d"]);
  expect(shorten("abcdefghij", 6, "end")).toBe("abcde…");
  expect(shorten("abcdefghij", 6, "start")).toBe("…fghij");
  expect(shorten("abcdefghij", 7, "middle")).toBe("ab…ghij");
  expect(shorten("日本語日本語", 7, "end")).toBe("日本語…");
  expect(width("e\u0301日")).toBe(3);
});

describe("on a real terminal", () => {
  const CLI = fileURLToPath(new URL("../../../dist/src/cli/main.cjs", import.meta.url));
  let directory = "";
  let fake: FakeManager | undefined;
  const answers = {
    watch: async () => ({}),
    status: async () => ({ devices: [device(0, { mountPoints: ["/mnt"] })], notes: [], manager }),
  };

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "live-"));
  });
  afterEach(async () => {
    await fake?.close();
    fake = undefined;
    rmSync(directory, { recursive: true, force: true });
  });

  /** The table as a child whose pid is said before, and how the terminal is after it; its exit code is the shell's. */
  const REPORT = `bash -c 'echo "pid $$"; exec $TABLE'; code=$?; stty -a | grep -o '[-]*icanon\\|[-]*echo ' | tr '\\n' ' '; exit $code`;

  /** util-linux' script(1) is the terminal; `shell` runs $TABLE on it. */
  function onTerminal(env: NodeJS.ProcessEnv = {}, shell = "exec $TABLE") {
    const TABLE = `${process.execPath} ${CLI} --run-dir ${directory} status --watch`;
    const child = spawn("script", ["-qec", `stty cols 90 rows 20; ${shell}`, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, TERM: "xterm", NO_COLOR: "", TABLE, SHELL: "/bin/bash", ...env },
    });
    let shown = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      shown += text;
    });
    return {
      child,
      ended: once(child, "close").then(([code]) => code as number),
      shown: () => shown,
      sees: (what: string) => until(`«${what}» is shown`, () => shown.includes(what)),
    };
  }

  test("frames come, an event brings one, a manager that goes is waited for, and Ctrl-C gives the terminal back", {
    timeout: 60_000,
  }, async () => {
    fake = await startFakeManager(directory, answers);
    const terminal = onTerminal();
    await terminal.sees("\u001b[32mserving\u001b[0m");
    expect(terminal.shown()).toContain("\u001b[?1049h\u001b[?25l");
    fake.tell({ at: new Date().toISOString(), device: "/dev/nbd0", event: "stalled", message: "no worker" });
    await terminal.sees("nbd0  stalled: no worker");
    await fake.close();
    await terminal.sees("the manager went away; waiting for another one");
    const next = { devices: [device(7)], notes: ["found again"], manager };
    fake = await startFakeManager(directory, { ...answers, status: async () => next });
    await terminal.sees("nbd7");
    await terminal.sees("found again");
    terminal.child.stdin.write("\u0003");
    expect(await terminal.ended).toBe(0);
    expect(terminal.shown()).toMatch(/\?7h.\[\?25h.\[\?1049l\s*$/);
    // Each frame is painted over the last one: nothing is ever cleared first.
    expect(terminal.shown()).not.toContain("\u001b[2J");
  });

  test("keys are not echoed into it; q ends it, but not as a part of what an arrow key sends", {
    timeout: 60_000,
  }, async () => {
    fake = await startFakeManager(directory, answers);
    const terminal = onTerminal({ PS1: "" });
    await terminal.sees("serving");
    terminal.child.stdin.write("xyzzy\u001b[A\u001bOq\r");
    fake.tell({ at: new Date().toISOString(), device: "/dev/nbd0", event: "stalled", message: "no worker" });
    await terminal.sees("nbd0  stalled: no worker");
    expect(terminal.shown()).not.toContain("xyzzy");
    terminal.child.stdin.write("q");
    expect(await terminal.ended).toBe(0);
    expect(terminal.shown()).toMatch(/\?1049l\s*$/);
  });

  test("SIGTERM and an uncaught error restore the terminal", {
    timeout: 60_000,
  }, async () => {
    for (const [signal, code, words] of [
      ["SIGTERM", 0, /\?1049l\s*icanon echo\s*$/],
      [
        "SIGUSR2",
        4,
        /\?1049l\s*erofs-nbd: internal error \(a bug in erofs-nbd\): oops[\s\S]*icanon echo\s*$/,
      ],
    ] as const) {
      fake = await startFakeManager(directory, answers);
      const preload = 'process.on("SIGUSR2", () => { throw new Error("oops"); })';
      const terminal = onTerminal(
        { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(preload)}` },
        REPORT,
      );
      await terminal.sees("serving");
      const pid = Number(/pid (\d+)/.exec(terminal.shown())?.[1]);
      process.kill(pid, signal);
      expect(await terminal.ended).toBe(code);
      expect(terminal.shown()).toMatch(words);
      await fake.close();
    }
  });

  test("Ctrl-Z suspends it with the terminal as it was, and fg brings it back", {
    timeout: 60_000,
  }, async () => {
    fake = await startFakeManager(directory, answers);
    // Job control: the table is a job of this shell, which says how the terminal is while the job is stopped.
    const shell = `set -m; $TABLE; echo "stopped with $?"; stty -a | grep -o '[-]*icanon\\|[-]*echo ' | tr '\\n' ' '; fg; echo "ended with $?"`;
    const terminal = onTerminal({}, shell);
    await terminal.sees("serving");
    terminal.child.stdin.write("\u001a");
    await terminal.sees("stopped with 148");
    await until("it comes back", () => terminal.shown().split("\u001b[?1049h").length === 3);
    expect(terminal.shown()).toMatch(/\?1049l[^?]*stopped with 148\s+icanon echo/);
    await until(
      "a frame",
      () => terminal.shown().lastIndexOf("serving") > terminal.shown().lastIndexOf("?1049h"),
    );
    terminal.child.stdin.write("q");
    await terminal.sees("ended with 0");
    await terminal.ended;
  });

  test("NO_COLOR disables colours; a manager that does not answer is reported, and Ctrl-C does not wait for it", {
    timeout: 60_000,
  }, async () => {
    let asked = 0;
    fake = await startFakeManager(directory, {
      ...answers,
      status: () => {
        asked += 1;
        return asked === 1 ? answers.status() : new Promise<never>(() => {});
      },
    });
    const terminal = onTerminal({ NO_COLOR: "1" });
    await terminal.sees("nbd0");
    await terminal.sees("the manager does not answer");
    expect(terminal.shown()).not.toContain("\u001b[32m");
    terminal.child.stdin.write("\u0003");
    expect(await terminal.ended).toBe(0);
    expect(terminal.shown()).toContain("\u001b[?1049l");
  });

  test("a dumb terminal gets lines", async () => {
    fake = await startFakeManager(directory, answers);
    const terminal = onTerminal({ TERM: "dumb" });
    await terminal.sees("MOUNTED ON");
    expect(terminal.shown()).not.toContain("\u001b");
    terminal.child.stdin.write("\u0003");
    expect(await terminal.ended).toBe(0);
  });
});
