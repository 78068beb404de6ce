/**
 * What the project is for: reads that go on while whatever serves them is killed, on a real kernel.
 *
 * Every test keeps reads on the wire at the kill, asserts that it did, counts the failovers, and compares every byte.
 */
import {
  closeSync,
  constants,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  truncateSync,
} from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/manager/control-protocol.ts";
import { fillDirectory, makeImage } from "../../helpers/erofs-image.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  afterFailovers,
  attach,
  CLI,
  cleanUpAfterFailure,
  detachAll,
  expectFlawless,
  killUnderLoad,
  readsInFlight,
  run,
  startReader,
  status,
  statusWhen,
  until,
  watchEvents,
  workerOf,
  workersOf,
} from "./product.ts";

let directory: string;
let image: string;

beforeAll(async () => {
  directory = mkdtempSync("/tmp/failover-");
  fillDirectory(join(directory, "tree"), 40, 24 << 20);
  image = join(directory, "image.erofs");
  await makeImage(image, join(directory, "tree"));
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe("a worker that dies", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("loses no read: killed with eight reads on the wire", async () => {
    const device = await attach(image);
    expect(device.counters).toMatchObject({ reconnects: 0, takeovers: 0, failedFailovers: 0 });
    const reader = await startReader(device.device ?? "", image);
    const victim = workerOf(device);
    const stranded = await killUnderLoad(device, reader.depth);
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ reconnects: 1, failedFailovers: 0 });
    expect(after.lastFailover).toMatchObject({
      result: "recovered",
      level: "reconnect",
      cause: `worker ${victim} was killed by SIGKILL`,
      strandedReads: stranded,
    });
    expect(after.links).toMatchObject([{ state: "up", generation: 2 }]);
    await detachAll();
  });

  test("again and again: five kills are five failovers", async () => {
    const device = await attach(image);
    const reader = await startReader(device.device ?? "", image);
    let now = device;
    for (let kill = 1; kill <= 5; kill += 1) {
      await killUnderLoad(now, reader.depth);
      now = await afterFailovers(device.device ?? "", kill);
    }
    expectFlawless(await reader.stop());
    expect(now.counters).toMatchObject({ reconnects: 5, takeovers: 0, failedFailovers: 0 });
    await detachAll();
  });

  test("while the failover of the one before it is under way", async () => {
    const device = await attach(image);
    const reader = await startReader(device.device ?? "", image);
    const watcher = await watchEvents();
    const spare = workersOf(device.managerPid).filter((pid) => pid !== workerOf(device));
    expect(spare).toHaveLength(1);
    const reconnecting = watcher.next(
      "the failover",
      (event) => event.event === "state" && event.state === "reconnecting",
    );
    await killUnderLoad(device, reader.depth);
    await reconnecting;
    // Whoever is to take over dies before it can have proven itself.
    for (const pid of spare) process.kill(pid, "SIGKILL");
    await watcher.next("the outcome", (event) => event.event === "failover" && event.result === "recovered");
    const after = await statusWhen(device.device ?? "", "serving", (now) => now.state === "serving");
    await watcher.stop();
    expectFlawless(await reader.stop());
    expect(after.counters.failedFailovers).toBe(0);
    expect(after.counters.reconnects).toBeGreaterThanOrEqual(1);
    expect([workerOf(device), ...spare]).not.toContain(workerOf(after));
    await detachAll();
  });

  test("before it is ready: its successors are killed as soon as they appear", async () => {
    const device = await attach(image);
    const reader = await startReader(device.device ?? "", image);
    const first = workersOf(device.managerPid);
    await killUnderLoad(device, reader.depth, first);
    for (let round = 0; round < 3; round += 1) {
      await until("a fresh worker", () => workersOf(device.managerPid).length > 0);
      for (const pid of workersOf(device.managerPid)) process.kill(pid, "SIGKILL");
    }
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters.failedFailovers).toBe(0);
    await detachAll();
  });

  test("together with all others, the spare among them", async () => {
    const device = await attach(image);
    const reader = await startReader(device.device ?? "", image);
    const victims = workersOf(device.managerPid);
    expect(victims).toHaveLength(2);
    await killUnderLoad(device, reader.depth, victims);
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ reconnects: 1, failedFailovers: 0 });
    await detachAll();
  });
});

describe("a link that dies", () => {
  const guard = guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("is one of three: the device goes on, and every slot is filled again", async () => {
    const device = await attach("--connections", "3", image);
    expect(device.links).toHaveLength(3);
    const reader = await startReader(device.device ?? "", image);
    const victim = workerOf(device);
    const lost = device.links.filter((link) => link.workerPid === victim).length;
    expect(lost).toBeLessThan(3);
    await until("reads in flight", () => readsInFlight(device.index ?? -1) > 0);
    process.kill(victim, "SIGKILL");
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.links.map((link) => link.state)).toEqual(["up", "up", "up"]);
    expect(after.links.filter((link) => link.generation === 2)).toHaveLength(lost);
    expect(after.counters).toMatchObject({ reconnects: 1, failedFailovers: 0 });
    await detachAll();
  });

  test("is noticed where LINK_DEAD never arrives", async (context) => {
    // Events go to the first network namespace only; before 6.4 the family is not there at all outside of it.
    const [major = 0, minor = 0] = release().split(".").map(Number);
    if (major < 6 || (major === 6 && minor < 4))
      return context.skip("this kernel has no nbd family in other network namespaces");
    const attached = await run("unshare", ["--net", process.execPath, CLI, "attach", "--json", image]);
    expect(attached).toMatchObject({ code: 0 });
    const device = JSON.parse(attached.stdout) as DeviceStatus;
    const reader = await startReader(device.device ?? "", image);
    await killUnderLoad(device, reader.depth);
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ reconnects: 1, failedFailovers: 0 });
    await detachAll();
  });

  test("over and over: fifteen kills in a row, no wrong byte, no kernel warning", async () => {
    const device = await attach("--io-timeout", "200", image);
    const reader = await startReader(device.device ?? "", image);
    let now = device;
    for (let kill = 1; kill <= 15; kill += 1) {
      await killUnderLoad(now, reader.depth);
      now = await afterFailovers(device.device ?? "", kill);
    }
    expectFlawless(await reader.stop());
    expect(now.counters).toMatchObject({ reconnects: 15, failedFailovers: 0 });
    expect(guard.kernelLog().filter(({ text }) => /BUG|Oops|WARNING/.test(text))).toEqual([]);
    await detachAll();
  }, 180_000);
});

describe("an image that changes under its device", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  /** Reads a block of the device past the page cache; the error's code when it fails. */
  function readBlock(device: string, at: number): Uint8Array | string {
    const fd = openSync(device, constants.O_RDONLY);
    try {
      const block = new Uint8Array(4096);
      readSync(fd, block, 0, block.length, at);
      return block;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? "?";
    } finally {
      closeSync(fd);
    }
  }

  test("truncated: reads get EIO and the log says why, never zeros", async () => {
    guard.expectKernelLog(/I\/O error,? (on )?dev nbd\d+/i, /Other side returned error/);
    const copy = join(directory, "truncated.erofs");
    copyFileSync(image, copy);
    const device = await attach(copy);
    const wanted = readFileSync(image);
    expect(readBlock(device.device ?? "", 0)).toEqual(new Uint8Array(wanted.subarray(0, 4096)));
    truncateSync(copy, 8 << 20);
    expect(readBlock(device.device ?? "", 16 << 20)).toBe("EIO");
    expect(readBlock(device.device ?? "", 4 << 20)).toBe("EIO");
    const after = await status(device.device ?? "");
    expect(after.counters.readErrors).toBeGreaterThan(0);
    expect(after.counters.reconnects).toBe(0);
    expect(readFileSync("/run/erofs-nbd/manager.log", "utf8")).toContain("it was truncated from");
    await detachAll();
  });

  test("replaced by another file of that name: reads go on from the file that was attached", async () => {
    const copy = join(directory, "replaced.erofs");
    copyFileSync(image, copy);
    const device = await attach(copy);
    const other = join(directory, "other.erofs");
    copyFileSync("/proc/self/exe", other);
    renameSync(other, copy);
    const wanted = readFileSync(image);
    expect(readBlock(device.device ?? "", 16 << 20)).toEqual(
      new Uint8Array(wanted.subarray(16 << 20, (16 << 20) + 4096)),
    );
    await detachAll();
  });
});
