/** manager.ts and its parts, as far as they need no nbd driver: bad images, unknown targets, invalid records. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { AttachParams } from "../../../src/control/protocol.ts";
import { chooseRunDir, type RunDir } from "../../../src/control/run-dir.ts";
import { prepareRunDir } from "../../../src/control/run-dir-trust.ts";
import { toAttachParams } from "../../../src/library/options.ts";
import { Manager } from "../../../src/manager/manager.ts";
import { WORKER_PATH } from "../../helpers/processes/built-worker.ts";

let base: string;
let runDir: RunDir;
let manager: Manager;
let logged: string[];

beforeEach(async () => {
  base = mkdtempSync(join(tmpdir(), "erofs-nbd-manager-"));
  runDir = chooseRunDir(join(base, "run"));
  prepareRunDir(runDir);
  logged = [];
  const log = (message: string): number => logged.push(message);
  manager = new Manager({
    runDir,
    log: { info: log, warn: log, error: log },
    workerStderr: "ignore",
    workerPath: WORKER_PATH,
  });
});
afterEach(async () => {
  await manager.stop();
  rmSync(base, { recursive: true });
});

const params = (image: string): AttachParams => toAttachParams(image, { interface: "netlink" });

/** Files in the test's directory that this process has open. */
function openFiles(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith(base) ? [target] : [];
    } catch {
      return [];
    }
  });
}

describe("attach refuses", () => {
  const images: Record<string, [make: (path: string) => void, code: string, words: string]> = {
    "an image without a descriptor": [() => {}, "ERR_BAD_ARGUMENT", "it is of an older version"],
    "an empty image": [(path) => writeFileSync(path, ""), "ERR_IMAGE", "it is empty"],
    "a directory": [(path) => mkdirSync(path), "ERR_IMAGE", "it is a directory"],
    "a raw image that is to be mounted": [
      (path) => writeFileSync(path, "x".repeat(4096)),
      "ERR_NOT_EROFS",
      "it is not an EROFS image",
    ],
  };

  for (const [what, [make, code, words]] of Object.entries(images)) {
    test(`${what}, and leaves no device, no record and no descriptor`, async () => {
      const path = join(base, "image");
      make(path);
      const fd = existsSync(path) ? openSync(path, "r") : undefined;
      await expect(manager.attach({ ...params(path), forMount: true }, fd)).rejects.toMatchObject({
        code,
        message: expect.stringContaining(words),
      });
      expect([manager.deviceCount, readdirSync(runDir.devices), openFiles()]).toEqual([0, [], []]);
    });
  }
});

describe("a source module", () => {
  test.each([
    [undefined, "the program does not say in which mount namespace"],
    ["mnt:[1] root 2 on mount 3", "the manager is in another mount namespace, or under another root"],
  ])("seen from another mount namespace (%s) is refused, and no worker loads it", async (view, words) => {
    const path = join(base, "module.mjs");
    writeFileSync(path, "export const open = () => ({ sizeBytes: 512, read() {} });");
    await expect(
      manager.attach({ ...params(path), module: { options: null, view } }, undefined),
    ).rejects.toMatchObject({
      code: "ERR_SOURCE",
      message: expect.stringContaining(words),
    });
    expect(logged.filter((line) => line.startsWith("Started worker"))).toEqual([]);
    expect(openFiles()).toEqual([]);
  });
});

describe("targets that are not attached", () => {
  test("status: an error, by index and by path", async () => {
    await expect(manager.status({ index: 1_048_575 })).rejects.toMatchObject({
      code: "ERR_NOT_ATTACHED",
      message: "cannot find nbd1048575: it is not attached",
    });
    await expect(manager.status({ path: "/nothing" })).rejects.toMatchObject({ code: "ERR_NOT_ATTACHED" });
    expect(await manager.status(null)).toEqual([]);
  });

  test("detach: each target has a result of its own; --all without devices has none", async () => {
    const results = await manager.detach([{ index: 1_048_575 }, { path: "/nothing" }], false, true);
    expect(results).toMatchObject([
      { target: { index: 1_048_575 }, device: null, error: { code: "ERR_NOT_ATTACHED", exitCode: 3 } },
      { target: { path: "/nothing" }, device: null, error: { code: "ERR_NOT_ATTACHED", exitCode: 3 } },
    ]);
    expect(await manager.detach([], true, false)).toEqual([]);
  });

  test("a mount reported for a device that is not there, and a borrower without a loan", async () => {
    await expect(manager.mounted(1_048_575)).rejects.toMatchObject({ code: "ERR_NOT_ATTACHED" });
    await manager.borrowerGone({ pid: process.pid });
  });
});

describe("start", () => {
  test("with an invalid record: it is reported once, and the manager starts", async () => {
    writeFileSync(join(runDir.devices, "broken.json"), "{");
    await manager.start();
    expect(manager.takeNotes()).toEqual([
      `${join(runDir.devices, "broken.json")} is not a record of a known version: left alone`,
    ]);
    expect(manager.takeNotes()).toEqual([]);
    expect(logged.filter((line) => line.startsWith("Started worker"))).toHaveLength(2);
    expect(manager.deviceCount).toBe(0);
  });
});
