/**
 * Read leases, and a file source under one: what counts as held, what a break changes, and when a file's new time is
 * its own.
 *
 * On tmpfs, whose leases count. Writers do not wait here (O_NONBLOCK): what breaks the lease and what lets go are one
 * process.
 */
import { closeSync, constants, mkdtempSync, openSync, rmSync, utimesSync, writeSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { FileSource } from "../../../src/source/file-source.ts";
import { canBeLeased, leaseBreakTimeMs, ReadLease } from "../../../src/source/read-lease.ts";
import { SourceError } from "../../../src/source/source.ts";
import { hasReadLease } from "../../../src/sys/libc/files.ts";
import { loopClock } from "../../../src/sys/loop-clock.ts";
import { openFileSource, openPatternFile } from "../../helpers/images/sources.ts";
import { openDescriptors } from "../../helpers/sockets/descriptors.ts";
import { until } from "../../helpers/until.ts";

const SIZE = 100_000;
const BREAK_MS = leaseBreakTimeMs();
let directory: string;
let path: string;
let source: FileSource;
let signals = 0;
let before: number;
const opened: number[] = [];
const hear = (): void => {
  signals += 1;
};

beforeEach(() => {
  before = openDescriptors().size;
  process.on("SIGIO", hear);
  signals = 0;
  directory = mkdtempSync("/dev/shm/erofs-nbd-lease-");
  path = join(directory, "image");
  source = openPatternFile(path, SIZE);
});
afterEach(async () => {
  vi.restoreAllMocks();
  source.close();
  for (const fd of opened.splice(0)) closeSync(fd);
  rmSync(directory, { recursive: true });
  expect(openDescriptors().size).toBeLessThanOrEqual(before);
  // One may be on its way.
  await new Promise(setImmediate);
  process.off("SIGIO", hear);
});

function take(): number {
  const fd = source.takeLease();
  if (fd === undefined) throw new Error("no lease");
  opened.push(fd);
  return fd;
}

const letGo = (fd: number): void => closeSync(opened.splice(opened.indexOf(fd), 1)[0] as number);

/** Wants to write, without waiting. Returns the errno's name, or the descriptor. */
function wantToWrite(): string | number {
  try {
    return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? "?";
  }
}

function overwrite(): void {
  const fd = wantToWrite() as number;
  writeSync(fd, Buffer.alloc(100, 0xee), 0, 100, 0);
  closeSync(fd);
}

/** As if so much time had gone by. */
function jump(ms: number): void {
  const real = loopClock.read.bind(loopClock);
  vi.spyOn(loopClock, "read").mockImplementation(() => {
    loopClock.nowMs = real() + ms;
    return loopClock.nowMs;
  });
}

describe("a read lease", () => {
  test("keeps writers away until it is let go, and its owner hears of them", async () => {
    const fd = take();
    expect(hasReadLease(fd)).toBe(true);
    expect(wantToWrite()).toBe("EAGAIN");
    await until("the signal", () => signals > 0);
    expect(hasReadLease(fd)).toBe(false);
    expect(wantToWrite()).toBe("EAGAIN");
    letGo(fd);
    closeSync(wantToWrite() as number);
  });

  test("is not to be had while a process has the file open for writing, nor where leases mean nothing", () => {
    const writer = wantToWrite() as number;
    expect(source.takeLease()).toBeUndefined();
    closeSync(writer);
    take();
    const other = openSync("/proc/version", "r");
    expect(canBeLeased(other)).toBe(false);
    closeSync(other);
  });

  test("counts as held for half of the time that a writer has to wait, and then only if the kernel says so", () => {
    const lease = new ReadLease(take());
    lease.look();
    expect(wantToWrite()).toBe("EAGAIN");
    expect(lease.isHeld).toBe(true);
    jump(BREAK_MS / 2);
    expect(lease.isHeld).toBe(false);
    vi.restoreAllMocks();
    expect(lease.isHeld).toBe(false);
  });

  test("ends for us where a writer is let in too soon to react", () => {
    const lease = new ReadLease(take());
    lease.look();
    lease.updateBreakTime(0);
    expect(lease.isHeld).toBe(false);
  });
});

describe("a file source", () => {
  test("is exact under a lease without looking at the file, and may send its pages", () => {
    source.useLease(new ReadLease(take()), false);
    expect(source.isLeased).toBe(true);
    expect(source.extent(4096)).toMatchObject({ offsetBytes: 4096 });
    utimesSync(path, 5, 5);
    expect(() => source.verify()).not.toThrow();
  });

  test("does not trust a lease on a file that changed before, unless a former owner vouches for it", () => {
    utimesSync(path, 5, 5);
    const lease = new ReadLease(take());
    source.useLease(lease, false);
    expect(source.isLeased).toBe(false);
    expect(() => source.verify()).toThrow(SourceError);
    source.refresh();
    expect(source.change).toBe("it was modified");
    source.useLease(lease, true);
    expect(source.isLeased).toBe(true);
  });

  test("takes a new time for its own while the lease is held", () => {
    const fd = take();
    source.useLease(new ReadLease(fd), false);
    utimesSync(path, 5, 5);
    source.refresh();
    expect(source.change).toBeUndefined();
    expect(source.identity.mtimeNs).toBe("5000000000");
    source.dropLease();
    letGo(fd);
    expect(() => source.verify()).not.toThrow();
  });

  test("takes the time that the file has at the break for its own, since the writer still waits", () => {
    const broken = vi.fn();
    source.onBroken = broken;
    const fd = take();
    const lease = new ReadLease(fd);
    source.useLease(lease, false);
    utimesSync(path, 5, 5);
    expect(wantToWrite()).toBe("EAGAIN");
    lease.look();
    expect(source.isLeased).toBe(false);
    expect(broken).toHaveBeenCalledOnce();
    expect(source.extent(0)).toBeUndefined();
    expect(() => source.verify()).not.toThrow();
    source.dropLease();
    letGo(fd);
    expect(() => source.verify()).not.toThrow();
    overwrite();
    expect(() => source.verify()).toThrow("it was modified");
    source.refresh();
    expect(source.change).toBe("it was modified");
  });

  test("takes no time for its own when the writer may have been let in", () => {
    const fd = take();
    source.useLease(new ReadLease(fd), false);
    expect(wantToWrite()).toBe("EAGAIN");
    utimesSync(path, 5, 5);
    jump(BREAK_MS);
    expect(source.isLeased).toBe(false);
    expect(() => source.verify()).toThrow("it was modified");
  });

  test("is trusted once the file is as it was", () => {
    utimesSync(path, 1_000_000_000, 1_000_000_000);
    source.close();
    source = openFileSource(path);
    utimesSync(path, 5, 5);
    source.useLease(new ReadLease(take()), false);
    expect(source.isLeased).toBe(false);
    utimesSync(path, 1_000_000_000, 1_000_000_000);
    source.refresh();
    expect(source.change).toBeUndefined();
    expect(source.isLeased).toBe(true);
  });
});
