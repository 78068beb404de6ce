/** detach against a manager that the test plays: how targets are named, and what is printed of each. */
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import type { ControlFault } from "../../../../src/control/protocol.ts";
import { pathView } from "../../../../src/source/path-view.ts";
import { deviceStatus } from "../fake-manager.ts";
import { image, runDir, useManagerRig, withManager } from "../manager-rig.ts";
import { runCli } from "../run-cli.ts";

useManagerRig();

describe("detach", () => {
  const run = (...args: string[]) => runCli(["--run-dir", runDir, "detach", ...args]);
  const mounted = {
    code: "ERR_DEVICE_MOUNTED",
    message: "cannot detach nbd1: it is mounted at /mnt",
    hint: "umount it first",
    exitCode: 2,
  } as const;
  const absent = {
    code: "ERR_NOT_ATTACHED",
    message: "cannot find nbd2: it is not attached",
    exitCode: 3,
  } as const;

  test("asks for every target in any spelling and prints what was detached", async () => {
    const { requests } = await withManager({
      detach: async ({ targets }) => ({
        results: targets.map((target) => ({ target, device: "/dev/nbd0", error: null })),
      }),
    });
    const result = await run("nbd1", "/dev/nbd2", "3", image);
    expect(result).toEqual({ code: 0, stdout: "detached /dev/nbd0\n".repeat(4), stderr: "" });
    const seen = {
      view: pathView(),
      file: { device: expect.stringMatching(/^\d+:\d+$/), inode: `${statSync(image).ino}` },
    };
    expect(requests[0]?.params).toEqual({
      targets: [{ index: 1 }, { index: 2 }, { index: 3 }, { path: image, seen }],
      all: false,
      force: false,
    });
  });

  test("an identifier names one device of several with the same image, and none after that is gone", async () => {
    const [identifier = "", gone = ""] = ["1", "2"].map(
      (digit) => `${digit.repeat(8)}-0000-4000-8000-00000000000a`,
    );
    const { requests } = await withManager({
      status: async () => ({
        devices: [deviceStatus(), { ...deviceStatus(), device: "/dev/nbd5", index: 5, identifier }],
        notes: [],
      }),
      detach: async ({ targets }) => ({
        results: targets.map((target) => ({ target, device: "/dev/nbd5", error: null })),
      }),
    });
    expect(await run(identifier)).toMatchObject({ code: 0, stdout: "detached /dev/nbd5\n" });
    await run(gone);
    const asked = requests.filter(({ method }) => method === "detach").map(({ params }) => params);
    expect(asked).toMatchObject([{ targets: [{ index: 5 }] }, { targets: [{ path: resolve(gone) }] }]);
  });

  test("an identifier is carried to the end: the index may be another device's by then", async () => {
    const { identifier } = deviceStatus();
    const { requests } = await withManager({
      hello: async () => ({ version: "9.0.0", pid: process.pid, takesDescriptors: true, protocol: 2 }),
      status: async () => ({ devices: [deviceStatus()], notes: [] }),
      detach: async ({ targets }) => ({
        results: targets.map((target) => ({ target, device: "/dev/nbd0", error: null })),
      }),
    });
    expect(await run(identifier)).toMatchObject({ code: 0, stdout: "detached /dev/nbd0\n" });
    expect(requests.at(-1)?.params).toMatchObject({ targets: [{ identifier }] });
  });

  test.each<[string, Array<ControlFault | null>, number]>([
    ["refused", [mounted], 2],
    ["not attached", [absent], 3],
    ["some of several", [null, mounted], 64],
    ["none of several", [absent, mounted], 2],
  ])("%s", async (_, errors, code) => {
    await withManager({
      detach: async () => ({
        results: errors.map((error) => ({
          target: null,
          device: error === null ? "/dev/nbd0" : null,
          error,
        })),
      }),
    });
    const result = await run("nbd0", "nbd1");
    expect(result.code).toBe(code);
    expect(result.stdout).toBe(errors.includes(null) ? "detached /dev/nbd0\n" : "");
    for (const error of errors)
      if (error !== null) expect(result.stderr).toContain(`erofs-nbd: ${error.message}\n`);
  });

  test("--json prints what became of each, errors among them, and nothing where nothing was attached", async () => {
    await withManager({
      detach: async ({ all }) => ({
        results: all
          ? []
          : [
              { target: { index: 0 }, device: "/dev/nbd0", error: null },
              { target: { index: 1 }, device: "/dev/nbd1", error: mounted },
            ],
      }),
    });
    const result = await run("--json", "nbd0", "nbd1");
    expect(result).toMatchObject({ code: 64, stderr: expect.stringContaining(mounted.message) });
    expect(JSON.parse(result.stdout)).toEqual([
      { target: { index: 0 }, device: "/dev/nbd0", error: null, detached: true },
      { target: { index: 1 }, device: "/dev/nbd1", error: mounted, detached: false },
    ]);
    expect(await run("--json", "--all")).toEqual({ code: 0, stdout: "[]\n", stderr: "" });
  });

  test("--all and --force are handed on; nothing attached is no error", async () => {
    const { requests } = await withManager({ detach: async () => ({ results: [] }) });
    expect(await run("--all", "--force")).toEqual({
      code: 0,
      stdout: "",
      stderr: "note: no devices attached\n",
    });
    expect(requests[0]?.params).toEqual({ targets: [], all: true, force: true });
  });
});
