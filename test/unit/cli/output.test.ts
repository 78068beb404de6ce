/**
 * What people see of devices and events: the table's columns, sizes, durations, one line per event.
 */
import { describe, expect, test } from "vitest";
import { formatEvent, formatTable } from "../../../src/cli/output.ts";
import { formatDuration } from "../../../src/text/durations.ts";
import { formatSize } from "../../../src/text/sizes.ts";
import { deviceStatus } from "./fake-manager.ts";

test("the table has a line of heads and one per device, its columns aligned", () => {
  const table = formatTable([
    deviceStatus({ mountPoints: ["/mnt/a", "/mnt/b"] }),
    deviceStatus({
      device: "/dev/nbd12",
      interface: "ioctl",
      state: "reconnecting",
      source: { type: "file", uri: "/x\ny", sizeBytes: 512 },
      links: [{ index: 0, state: "down", workerPid: 0, generation: 2 }],
      counters: {
        requests: 9,
        readBytes: 0,
        readErrors: 0,
        takeovers: 1,
        reconnects: 2,
        failedFailovers: 1,
        handovers: 4,
      },
      lastFailover: {
        result: "recovered",
        level: "reconnect",
        cause: "worker 5 was killed by SIGKILL",
        causeClass: "worker-exit",
        stallMs: 1065,
        at: "2026-01-02T03:04:05.678Z",
        strandedReads: 8,
      },
    }),
  ]);
  expect(table.split("\n")).toEqual([
    "DEVICE      STATE                 SIZE       IMAGE               MOUNTED ON     LINKS              EXACT  REQUESTS  FAILOVERS     LAST FAILOVER",
    "/dev/nbd0   serving               107.8 MiB  /images/tree.erofs  /mnt/a /mnt/b  1/1 (worker 4712)  lease  12        0             -",
    "/dev/nbd12  reconnecting (ioctl)  512 B      /x\\ny               -              0/1                lease  9         3 (1 failed)  recovered in 1.06 s, 2026-01-02T03:04:05.678Z: worker 5 was killed by SIGKILL",
  ]);
});

test("a cause forges no device", () => {
  const lastFailover = {
    result: "recovered",
    level: "takeover",
    cause: "x\n/dev/nbd9  serving\u001b[2K\u009b2J\u202e",
    causeClass: "worker-exit",
    stallMs: 1,
    at: "2026-01-02T03:04:05.678Z",
    strandedReads: 0,
  } as const;
  const lines = formatTable([deviceStatus({ lastFailover })]).split("\n");
  expect(lines).toHaveLength(2);
  expect(lines[1]).toContain(": x\\n/dev/nbd9  serving\\x1b[2K\\x9b2J\\u202e");
});

test("below a device whose image has changed is how", () => {
  const changed = deviceStatus({ exact: "checked", imageChange: "it was modified\n" });
  const former = { ...deviceStatus(), exact: undefined as unknown as null, imageChange: undefined as never };
  const [, first, why, second] = formatTable([changed, former]).split("\n");
  expect(first).toContain("  checked  ");
  expect(why).toBe("    reads fail: the image has changed: it was modified\\n");
  expect(second).toContain("  -        12 ");
});

test("below a stalled device is the reason, on a line of its own, without terminal control sequences", () => {
  const stalled = deviceStatus({ state: "stalled", stalledReason: "3 workers died of it\n\u001b[2J" });
  const former = { ...deviceStatus(), stalledReason: undefined as unknown as null };
  const [, first, why, second, ...more] = formatTable([stalled, former]).split("\n");
  expect(first).toMatch(/^\/dev\/nbd0 {2}stalled /);
  expect(why).toBe("    stalled: 3 workers died of it\\n\\x1b[2J");
  expect(second).toMatch(/^\/dev\/nbd0 {2}serving /);
  expect(more).toEqual([]);
});

test("sizes and durations", () => {
  expect([0, 1023, 1024, 1536, 2 ** 30, 2 ** 50].map(formatSize)).toEqual([
    "0 B",
    "1023 B",
    "1.0 KiB",
    "1.5 KiB",
    "1.0 GiB",
    "1.0 PiB",
  ]);
  expect([0.04, 12.54, 1500].map(formatDuration)).toEqual(["0.0 ms", "12.5 ms", "1.50 s"]);
});

describe("events", () => {
  const head = { at: "2026-01-02T03:04:05.678Z", device: "/dev/nbd0" } as const;

  test.each([
    [{ ...head, event: "attached", image: "/a.erofs" } as const, "attached: /a.erofs"],
    [{ ...head, event: "state", state: "serving", before: "attaching" } as const, "serving (was attaching)"],
    [
      {
        ...head,
        event: "failover",
        result: "recovered",
        level: "reconnect",
        cause: "worker 5 died",
        causeClass: "worker-exit",
        stallMs: 40,
        strandedReads: 8,
      } as const,
      "failover recovered by reconnect after 40.0 ms: worker 5 died",
    ],
    [{ ...head, event: "revived" } as const, "revived: reads are answered again"],
    [
      { ...head, event: "read-errors", message: "no\u001b[31m", count: 2 } as const,
      "2 read(s) failed: no\\x1b[31m",
    ],
    [{ ...head, event: "detached", message: "asked for" } as const, "detached: asked for"],
  ])("%j", (event, text) => {
    expect(formatEvent(event)).toBe(`2026-01-02T03:04:05.678Z  /dev/nbd0  ${text}`);
  });
});
