/**
 * Reconnects on a real kernel: links die with reads on the wire, which only the kernel's timer sends again.
 *
 * Every test keeps reads on the wire at the cut, asserts that it did, counts the failovers, and compares every byte.
 * Workers that die under a link that lives are in takeover.test.ts, managers in manager.test.ts.
 */
import {
  closeSync,
  constants,
  copyFileSync,
  mkdirSync,
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
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { fillDirectory, makeImage } from "../../helpers/images/erofs-image.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  afterFailovers,
  attach,
  bothWorkersOf,
  CLI,
  cleanUpAfterFailure,
  cutUnderLoad,
  detachAll,
  expectFlawless,
  killTogether,
  run,
  startReader,
  status,
  statusWhen,
  watchEvents,
  workerOf,
} from "./product.ts";
import { many } from "./soak.ts";

/** A worker that a test stops for a moment is not hung. */
const CUTTABLE = ["--hang-timeout", "60000"];
let directory: string;
let image: string;

beforeAll(async () => {
  directory = mkdtempSync("/tmp/failover-");
  fillDirectory(join(directory, "tree"), 40, 24 << 20);
  image = join(directory, "image.erofs");
  await makeImage(image, join(directory, "tree"));
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** In a row; the run of several hours makes more of them. */
const CUTS = many(8);

describe("a link that dies", () => {
  const guard = guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("loses none of eight reads on the wire", async () => {
    const device = await attach(...CUTTABLE, image);
    expect(device.counters).toMatchObject({ reconnects: 0, takeovers: 0, failedFailovers: 0 });
    const reader = await startReader(device.device ?? "", image);
    const stranded = await cutUnderLoad(device);
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ reconnects: 1, takeovers: 0, failedFailovers: 0 });
    expect(after.lastFailover).toMatchObject({
      result: "recovered",
      level: "reconnect",
      strandedReads: stranded,
    });
    expect(after.lastFailover?.cause).toMatch(/dead link|hung up|ended the link/);
    expect(after.links).toMatchObject([{ state: "up", generation: 2 }]);
    await detachAll();
  });

  test("five times is reconnected five times", async () => {
    const device = await attach(...CUTTABLE, image);
    const reader = await startReader(device.device ?? "", image);
    let now = device;
    for (let cut = 1; cut <= 5; cut += 1) {
      await cutUnderLoad(now);
      now = await afterFailovers(device.device ?? "", cut);
    }
    expectFlawless(await reader.stop());
    expect(now.counters).toMatchObject({ reconnects: 5, takeovers: 0, failedFailovers: 0 });
    expect(now.links).toMatchObject([{ state: "up", generation: 6 }]);
    await detachAll();
  });

  test("is replaced although every new worker dies meanwhile", async () => {
    const device = await attach(...CUTTABLE, image);
    const reader = await startReader(device.device ?? "", image);
    const watcher = await watchEvents();
    const victims = await bothWorkersOf(device.managerPid);
    expect(victims).toHaveLength(2);
    const reconnecting = watcher.next(
      "the failover",
      (event) => event.event === "state" && event.state === "reconnecting",
    );
    await cutUnderLoad(device);
    await reconnecting;
    // The worker of the fresh link dies before the link can have been proven.
    await killTogether(...victims);
    const after = await statusWhen(
      device.device ?? "",
      "another worker",
      (now) => now.state === "serving" && !victims.includes(workerOf(now)) && now.lastFailover !== null,
    );
    await watcher.stop();
    expectFlawless(await reader.stop());
    expect(after.counters.failedFailovers).toBe(0);
    expect(after.counters.reconnects).toBeGreaterThanOrEqual(1);
    await detachAll();
  });

  test("is one of three, cut by the kernel, is replaced while the device is read", async () => {
    const device = await attach(...CUTTABLE, "--connections", "3", image);
    expect(device.links).toHaveLength(3);
    const reader = await startReader(device.device ?? "", image);
    const stuck = workerOf(device);
    const others = device.links.filter((link) => link.workerPid !== stuck);
    expect(others.length).toBeGreaterThan(0);
    // With several links the kernel cuts one whose requests grow too old; the others carry on with them.
    process.kill(stuck, "SIGSTOP");
    // Another worker may have filled the slot between two looks.
    await statusWhen(
      device.device ?? "",
      "the cut",
      ({ state, counters }) => state === "reconnecting" || counters.reconnects > 0,
    );
    process.kill(stuck, "SIGCONT");
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.links.map((link) => link.state)).toEqual(["up", "up", "up"]);
    expect(after.links[0]).toMatchObject({ generation: 2 });
    for (const { index } of others) expect(after.links[index]).toMatchObject({ generation: 1 });
    expect(after.counters).toMatchObject({ takeovers: 0, failedFailovers: 0 });
    await detachAll();
  });

  test("while the run directory is full is replaced with the journal that it had", async () => {
    const place = "/run/erofs-nbd";
    mkdirSync(place, { recursive: true, mode: 0o755 });
    expect(await run("mount", ["-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", place])).toMatchObject({
      code: 0,
    });
    try {
      const device = await attach(...CUTTABLE, image);
      const reader = await startReader(device.device ?? "", image);
      await bothWorkersOf(device.managerPid);
      const filled = await run("dd", ["if=/dev/zero", `of=${place}/filler`, "bs=4096"], { LC_ALL: "C" });
      expect(filled.stderr).toContain("No space left on device");
      for (let cut = 1; cut <= 2; cut += 1) {
        await cutUnderLoad(await status(device.device ?? ""));
        const after = await afterFailovers(device.device ?? "", cut);
        expect(after.counters).toMatchObject({ reconnects: cut, failedFailovers: 0 });
      }
      expectFlawless(await reader.stop());
      rmSync(`${place}/filler`);
      await detachAll();
    } finally {
      await run("umount", ["-l", place]);
    }
  });

  test("together with its two neighbours is replaced, and so are they", async () => {
    const device = await attach(...CUTTABLE, "--connections", "3", image);
    const reader = await startReader(device.device ?? "", image);
    await cutUnderLoad(device);
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.links.map(({ state, generation }) => `${state} ${generation}`)).toEqual(
      Array(3).fill("up 2"),
    );
    expect(after.counters).toMatchObject({ reconnects: 1, failedFailovers: 0 });
    await detachAll();
  });

  test("is noticed even if LINK_DEAD never arrives", async (context) => {
    // Events go to the first network namespace only; before 6.4 the family is not there at all outside of it.
    const [major = 0, minor = 0] = release().split(".").map(Number);
    if (major < 6 || (major === 6 && minor < 4))
      return context.skip("this kernel has no nbd family in other network namespaces");
    const attached = await run("unshare", [
      "--net",
      process.execPath,
      CLI,
      "attach",
      "--json",
      ...CUTTABLE,
      image,
    ]);
    expect(attached).toMatchObject({ code: 0 });
    const device = JSON.parse(attached.stdout) as DeviceStatus;
    const reader = await startReader(device.device ?? "", image);
    await cutUnderLoad(device);
    const after = await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ reconnects: 1, takeovers: 0, failedFailovers: 0 });
    await detachAll();
  });

  test("many times in a row causes no wrong byte and no kernel warning", async () => {
    const device = await attach(...CUTTABLE, "--io-timeout", "200", image);
    const reader = await startReader(device.device ?? "", image);
    let now = device;
    for (let cut = 1; cut <= CUTS; cut += 1) {
      await cutUnderLoad(now);
      now = await afterFailovers(device.device ?? "", cut);
    }
    expectFlawless(await reader.stop());
    expect(now.counters).toMatchObject({ reconnects: CUTS, takeovers: 0, failedFailovers: 0 });
    expect(guard.kernelLog().filter(({ text }) => /BUG|Oops|WARNING/.test(text))).toEqual([]);
    await detachAll();
  });
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

  test("by truncation fails reads with EIO, and the log has the reason", async () => {
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

  test("by another file of its name is read from the file that was attached", async () => {
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
