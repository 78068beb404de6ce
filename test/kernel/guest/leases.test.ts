/**
 * Images that other processes open for writing, overwrite and touch while their device is read: reads return the bytes
 * of the attach, or EIO.
 *
 * Runs inside a guest (or with --host). The image is on a tmpfs of its own, where leases are exact.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { guarded } from "./leftovers.ts";
import { endObservers, expectFlawless, startReader } from "./observers.ts";
import { attach, cleanUpAfterFailure, detachAll, erofsNbdOk, killUnderLoad, statusWhen } from "./product.ts";

const MIB = 1 << 20;
const SIZE = 8 * MIB;
const MADE_AT = 1_700_000_000;
const ROUNDS = 4;
const OVERWRITES = Number(process.env["EROFS_NBD_OVERWRITES"] ?? ROUNDS);

let directory: string;
let image: string;
let device: DeviceStatus;
/** What `status` and a reader call it. */
let node: string;
const good = Buffer.alloc(SIZE, 0x5a);
const bad = Buffer.alloc(SIZE, 0xa5);

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "leases-"));
  for (const name of ["image", "files"]) mkdirSync(join(directory, name));
  execFileSync("mount", ["-t", "tmpfs", "tmpfs", join(directory, "image")]);
  image = join(directory, "image", "raw");
  // Read once by each reader, to compare with, so not the image itself.
  writeFileSync(join(directory, "files", "good"), good);
  writeFileSync(join(directory, "files", "bad"), bad);
});
afterAll(() => {
  execFileSync("umount", [join(directory, "image")]);
  rmSync(directory, { recursive: true });
});

/** Overwrites the image in place, in a process of its own, which may have to wait. */
async function overwrite(name: "good" | "bad"): Promise<void> {
  const from = join(directory, "files", name);
  const words = [`if=${from}`, `of=${image}`, "bs=1M", "conv=notrunc", "status=none"];
  const [code] = await once(spawn("dd", words, { stdio: ["ignore", "ignore", "inherit"] }), "close");
  expect(code).toBe(0);
}

/** Opens the image for writing and writes nothing: that breaks the lease, and waits. */
async function openForWriting(): Promise<void> {
  const words = ["if=/dev/null", `of=${image}`, "conv=notrunc", "status=none"];
  const [code] = await once(spawn("dd", words, { stdio: ["ignore", "ignore", "inherit"] }), "close");
  expect(code).toBe(0);
}

/** Puts the image back as it was attached. */
async function restore(): Promise<void> {
  await overwrite("good");
  utimesSync(image, MADE_AT, MADE_AT);
}

const leased = (): Promise<DeviceStatus> =>
  statusWhen(node, "a lease", ({ exact, imageChange }) => exact === "lease" && imageChange === null);

describe("an image on tmpfs", () => {
  const guard = guarded();
  cleanUpAfterFailure();
  beforeEach(async () => {
    guard.expectKernelLog(/I\/O error,? (on )?dev nbd\d+/i, /Other side returned error/);
    writeFileSync(image, good);
    utimesSync(image, MADE_AT, MADE_AT);
    device = await attach("--block-size", "4096", image);
    node = device.device ?? "";
    await leased();
  });
  afterEach(async () => {
    endObservers();
    await detachAll();
  });

  test("can be opened for writing while large reads are on the wire: writers wait, and no read fails", async () => {
    const reader = await startReader(node, join(directory, "files", "good"), 4, MIB);
    for (let round = 0; round < ROUNDS; round += 1) {
      await openForWriting();
      await leased();
    }
    expectFlawless(await reader.stop());
  });

  test("returns no wrong byte when it is overwritten and restored while large reads are on the wire", async () => {
    const reader = await startReader(node, join(directory, "files", "good"), 4, MIB);
    for (let round = 0; round < OVERWRITES; round += 1) {
      await overwrite("bad");
      await statusWhen(node, "the change", ({ imageChange }) => imageChange !== null);
      await restore();
      await leased();
    }
    const report = await reader.stop();
    expect(report).toMatchObject({ wrong: 0, mismatches: 0 });
    expect(report.errors).toBeGreaterThan(0);
    expect(report.reads).toBeGreaterThan(0);
  });

  test("is logged once each time it is overwritten and restored, and reads fail in between", async () => {
    const told = (): number =>
      readFileSync("/run/erofs-nbd/manager.log", "utf8").split("has changed: it was modified").length;
    const toldBefore = told();
    for (let round = 1; round <= ROUNDS; round += 1) {
      await overwrite("bad");
      const changed = await statusWhen(node, "the change", ({ imageChange }) => imageChange !== null);
      expect(changed).toMatchObject({ state: "serving", exact: "checked", imageChange: "it was modified" });
      await restore();
      await leased();
      expect(told() - toldBefore).toBe(round);
    }
    expect(readFileSync(node).equals(good)).toBe(true);
  });

  test("is shown with its change in the table", async () => {
    await overwrite("bad");
    await statusWhen(node, "the change", ({ imageChange }) => imageChange !== null);
    expect(await erofsNbdOk("status")).toContain("\n    reads fail: the image has changed: it was modified");
  });

  test("fails no read when it gets another time while it is read, and its worker is killed", async () => {
    const reader = await startReader(node, join(directory, "files", "good"), 4, MIB);
    utimesSync(image, 5, 5);
    await killUnderLoad(device);
    await leased();
    utimesSync(image, 6, 6);
    // All links to fresh workers.
    await erofsNbdOk("upgrade", "--workers-only");
    await leased();
    expectFlawless(await reader.stop());
  });
});
