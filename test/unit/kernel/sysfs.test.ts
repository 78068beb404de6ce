/** sysfs.ts, where this machine need not have nbd devices: files of sysfs and /dev are the test's. */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { missingNode } from "../../../src/kernel/sysfs.ts";

/** What the kernel and /dev have; any other path is the machine's. */
const machine = vi.hoisted(() => ({ files: new Map<string, string>(), nodes: new Set<string>() }));

vi.mock("node:fs", async (original) => {
  const real = await original<typeof fs>();
  const openSync: typeof fs.openSync = (path, ...rest) =>
    real.openSync(machine.files.get(`${path}`) ?? path, ...rest);
  const existsSync: typeof fs.existsSync = (path) =>
    `${path}`.startsWith("/dev/nbd") ? machine.nodes.has(`${path}`) : real.existsSync(path);
  return { ...real, openSync, existsSync };
});

const directory = fs.mkdtempSync(join(tmpdir(), "erofs-nbd-sysfs-"));
afterAll(() => fs.rmSync(directory, { recursive: true }));
beforeAll(() => {
  // An index that no machine has.
  fs.writeFileSync(join(directory, "dev"), "43:7\n");
  machine.files.set("/sys/block/nbd700000/dev", join(directory, "dev"));
});

test("a node that /dev lacks is named, with the number to make it with", () => {
  expect(missingNode(700_000)).toEqual({ path: "/dev/nbd700000", number: "43 7" });
});

test("a node that is there is not missing, and neither is that of a device which the kernel does not have", () => {
  machine.nodes.add("/dev/nbd700000");
  expect(missingNode(700_000)).toBeUndefined();
  expect(missingNode(700_001)).toBeUndefined();
});
