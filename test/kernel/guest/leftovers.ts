/**
 * The check that a kernel test leaves the machine as it found it: no configured device, no mount, no process, no open
 * descriptor, nothing in the kernel log that was not expected. Every guest test file calls `guarded()` once.
 *
 * It only looks. It never cleans up, because that would hide the bug.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach } from "vitest";
import { LIMITS } from "../../limits.mjs";
import type { KernelLogRecord } from "../lab/report/kernel-log.ts";
import { formatRecord, KernelLogReader } from "../lab/report/kernel-log.ts";

/** The machine's state at one moment, as far as tests may not change it. */
export interface Snapshot {
  /** Configured nbd devices: name → what makes it configured. */
  readonly devices: ReadonlyMap<string, string>;
  /** mount id → «type source on mount point». */
  readonly mounts: ReadonlyMap<string, string>;
  /** "pid start-time" → command line. */
  readonly processes: ReadonlyMap<string, string>;
  /** descriptor of this process → what it refers to. */
  readonly descriptors: ReadonlyMap<string, string>;
}

/** How a file's check can be told what is normal. */
export interface Guard {
  /** From now to the end of this test, kernel log lines matching any of these are expected. */
  expectKernelLog(...patterns: readonly RegExp[]): void;
  /** Every kernel log record since this test began. */
  kernelLog(): readonly KernelLogRecord[];
}

/** What the nbd driver logs when a device comes and goes as it should. */
export const ORDINARY_LINES: readonly RegExp[] = [
  /^block nbd\d+: (NBD_DISCONNECT|shutting down sockets|Disconnected due to user request\.)$/,
  /^nbd\d+: detected capacity change from \d+ to \d+$/,
  // More of the same within seconds. The lines that were let through before it are judged as any other.
  /^\w+: \d+ callbacks suppressed$/,
  /^nbd: registered device at major \d+$/,
  // The machine is short of processors.
  /^hrtimer: interrupt took \d+ ns$/,
  /^erofs: (\(device nbd\d+\): )?(mounted|unmounted|initialized)/,
  /^erofs \(device nbd\d+\): (mounted|unmounted)/,
];

/** What it logs beside when a link dies: for tests that kill workers, sockets or managers. */
export const LINK_DEATH_LINES: readonly RegExp[] = [
  /^block nbd\d+: (Receive control failed|Send control failed|Receive data failed|Send data failed) \(result -?\d+\)$/,
  /^block nbd\d+: (Dead connection, failed to find a fallback|Other side returned error|reconnected socket)/,
  /^block nbd\d+: (Connection timed out|Possible stuck request|Send disconnect failed -32)/,
  /^block nbd\d+: Request send failed, requeueing/,
];

/** What it logs beside when reads fail that were bound to: for tests of ends that nothing can mend. */
export const READ_FAILURE_LINES: readonly RegExp[] = [
  /I\/O error,? (on )?dev nbd\d+/i,
  /^block nbd\d+: Attempted send on invalid socket$/,
];

/** Records at or above this severity must be expected (4 is KERN_WARNING) ... */
const SUSPICIOUS_LEVEL = 4;
/** ... and these at any level. */
const ALARMS = new RegExp(
  "\\b(BUG|Oops|WARNING|Call Trace|hung task|blocked for more than|I/O error|use-after-free|refcount_t)\\b" +
    "|general protection|stuck for",
  "i",
);
/** Closing, reaping and disconnecting take a moment after the test's last await. */
const GRACE_MS: number = LIMITS.graceMs;
const LOOK_AGAIN_MS = 50;
/** In a guest every process is ours; on a host only these are. */
const OUR_PROCESSES = /erofs-nbd|\/dist\/src\/|nbd-client|nbd-server|nbdkit|qemu-|\bfio\b|do-it/;

let log: KernelLogReader | undefined;

/**
 * Checks after each test of the calling file or describe block that nothing was left behind.
 * @param expected kernel log lines that are normal for all of its tests, beside ORDINARY_LINES
 */
export function guarded(expected: readonly RegExp[] = []): Guard {
  let before: Snapshot | undefined;
  let patterns: readonly RegExp[] = [];
  let records: KernelLogRecord[] = [];
  const reader = (): KernelLogReader => {
    log ??= new KernelLogReader();
    return log;
  };
  beforeEach(() => {
    patterns = [...ORDINARY_LINES, ...expected];
    reader().readNew();
    records = [];
    before = snapshot();
  });
  const kernelLog = (): readonly KernelLogRecord[] => {
    records.push(...reader().readNew());
    return records;
  };
  afterEach(async () => {
    if (before === undefined) return;
    await assertNoLeftovers(before);
    assertQuietLog(kernelLog(), patterns);
  });
  return {
    expectKernelLog(...more) {
      patterns = [...patterns, ...more];
    },
    kernelLog,
  };
}

/** What is there now. */
export function snapshot(): Snapshot {
  return { devices: devices(), mounts: mounts(), processes: processes(), descriptors: descriptors() };
}

/**
 * @param before an earlier snapshot
 * @param graceMs how long things may take to go away
 * @throws Error naming everything that is there now and was not then
 */
export async function assertNoLeftovers(before: Snapshot, graceMs: number = GRACE_MS): Promise<void> {
  const deadlineMs = Date.now() + graceMs;
  for (;;) {
    const found = differences(before, snapshot());
    if (found.length === 0) return;
    if (Date.now() > deadlineMs) throw new Error(`The test left behind:\n${found.join("\n")}`);
    await delay(LOOK_AGAIN_MS);
  }
}

/**
 * @param records of one test
 * @param expected patterns of lines that may be there
 * @throws Error with the unexpected lines
 */
export function assertQuietLog(records: readonly KernelLogRecord[], expected: readonly RegExp[]): void {
  const odd = records.filter(
    (record) =>
      (record.level <= SUSPICIOUS_LEVEL || ALARMS.test(record.text)) &&
      !expected.some((pattern) => pattern.test(record.text)),
  );
  if (odd.length === 0) return;
  throw new Error(`The kernel logged what the test did not expect:\n${odd.map(formatRecord).join("\n")}`);
}

function differences(before: Snapshot, now: Snapshot): string[] {
  const kinds = {
    devices: "device",
    mounts: "mount",
    processes: "process",
    descriptors: "descriptor",
  } as const;
  const found: string[] = [];
  for (const [kind, word] of Object.entries(kinds)) {
    const [was, is] = [before[kind as keyof Snapshot], now[kind as keyof Snapshot]];
    for (const [key, what] of is) if (was.get(key) !== what) found.push(`  ${word} ${key}: ${what}`);
    if (kind === "mounts") {
      for (const [key, what] of was) if (!is.has(key)) found.push(`  mount that is gone ${key}: ${what}`);
    }
  }
  return found;
}

function devices(): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of readdirSync("/sys/block").filter((entry) => /^nbd\d+$/.test(entry))) {
    const pid = read(`/sys/block/${name}/pid`).trim();
    const sectors = read(`/sys/block/${name}/size`).trim();
    const marks = [
      pid === "" ? "" : `pid ${pid}`,
      sectors === "0" || sectors === "" ? "" : `${sectors} sectors`,
    ];
    if (marks.some((mark) => mark !== "")) found.set(name, marks.filter((mark) => mark !== "").join(", "));
  }
  return found;
}

function mounts(): Map<string, string> {
  const lines = read("/proc/self/mountinfo").trimEnd().split("\n");
  return new Map(
    lines.map((line) => {
      const [left = "", right = ""] = line.split(" - ");
      const [id = "", , , , point = ""] = left.split(" ");
      const [type = "", source = ""] = right.split(" ");
      return [id, `${type} ${source} on ${point}`];
    }),
  );
}

function processes(): Map<string, string> {
  const inGuest = process.env["EROFS_NBD_LAB_KERNEL"] !== undefined;
  const found = new Map<string, string>();
  for (const pid of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    const command = read(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim();
    if (command === "" || !(inGuest || OUR_PROCESSES.test(command))) continue; // kernel threads have no command line
    const startTime =
      read(`/proc/${pid}/stat`)
        .replace(/^.*\) /, "")
        .split(" ")[19] ?? "";
    if (startTime !== "") found.set(`${pid} ${startTime}`, command);
  }
  return found;
}

/**
 * Descriptors that were opened on purpose. Node's own (event loop, pipes to children that just ended, standard
 * devices) come and go as it likes.
 */
function descriptors(): Map<string, string> {
  const found = new Map<string, string>();
  for (const fd of readdirSync("/proc/self/fd")) {
    let target: string;
    try {
      target = readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      continue; // the descriptor of the directory just listed
    }
    if (/^(anon_inode:\[(eventpoll|eventfd|io_uring|signalfd)\]|pipe:)/.test(target)) continue;
    if (/^\/(dev\/(null|kmsg|u?random|pts\/|tty)|proc\/)/.test(target)) continue;
    found.set(fd, target);
  }
  return found;
}

/** Whole text, or nothing when the file went away meanwhile. */
function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ESRCH" || code === "EINVAL") return "";
    throw error;
  }
}
