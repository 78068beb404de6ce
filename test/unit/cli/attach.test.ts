/**
 * attach and detach against a manager that the test plays: what is asked, what is printed, what is undone.
 */
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { AttachParams, ControlFault } from "../../../src/control/protocol.ts";
import { pathView } from "../../../src/source/path-view.ts";
import { deviceStatus, type FakeManager, Fault, startFakeManager } from "./fake-manager.ts";
import { runCli, startCli } from "./run-cli.ts";

let directory = "";
let runDir = "";
let image = "";
let manager: FakeManager | undefined;

const withManager = async (answers: Parameters<typeof startFakeManager>[1]): Promise<FakeManager> => {
  manager = await startFakeManager(runDir, answers);
  return manager;
};

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-attach-"));
  runDir = join(directory, "run");
  image = join(directory, "image");
  writeFileSync(image, "raw bytes ".repeat(100));
});
afterEach(async () => {
  await manager?.close();
  manager = undefined;
  rmSync(directory, { recursive: true, force: true });
});

describe("attach", () => {
  const run = (...args: string[]) => runCli(["--run-dir", runDir, "attach", ...args]);
  const answer = async () => ({ device: deviceStatus(), notes: ["it is a raw image"] });

  test("asks with the defaults and prints the node and nothing else on stdout", async () => {
    const { requests } = await withManager({ attach: answer });
    expect(await run(image)).toEqual({ code: 0, stdout: "/dev/nbd0\n", stderr: "note: it is a raw image\n" });
    const wanted: AttachParams = {
      image,
      interface: "any",
      index: null,
      connections: 1,
      blockSizeBytes: null,
      timeoutSeconds: 0,
      deadTimeoutSeconds: 86_400,
      ioTimeoutMs: 1000,
      hangTimeoutMs: 2000,
      forMount: false,
    };
    expect(requests).toEqual([{ method: "attach", params: wanted }]);
  });

  test("hands every option on; a relative path becomes absolute", async () => {
    const { requests } = await withManager({ attach: answer });
    const words = ["--netlink", "--device", "/dev/nbd7", "--connections", "3", "--block-size", "4096"];
    const times = ["--timeout", "30", "--dead-timeout", "0", "--io-timeout", "250", "--hang-timeout", "4500"];
    const result = await runCli(["attach", ...words, ...times, "--run-dir", runDir, "image"], {
      cwd: directory,
    });
    expect(result.code).toBe(0);
    expect(requests[0]?.params).toEqual({
      image,
      interface: "netlink",
      index: 7,
      connections: 3,
      blockSizeBytes: 4096,
      timeoutSeconds: 30,
      deadTimeoutSeconds: 0,
      ioTimeoutMs: 250,
      hangTimeoutMs: 4500,
      forMount: false,
    });
  });

  test("--json prints the status object; --ioctl prints its limitation once", async () => {
    const { requests } = await withManager({ attach: answer });
    const result = await run("--json", "--ioctl", image);
    expect(JSON.parse(result.stdout)).toEqual(deviceStatus());
    expect(result.stderr.match(/cannot be reconnected/g)).toHaveLength(1);
    expect(requests[0]?.params).toMatchObject({ interface: "ioctl" });
  });

  test("the manager's refusal is printed with its hint and ends with its exit code", async () => {
    const message = "cannot attach: the kernel has no nbd driver loaded";
    const hint = "load it: modprobe nbd max_part=0";
    await withManager({
      attach: () => {
        throw new Fault({ code: "ERR_NO_NBD", message, hint, exitCode: 2 });
      },
    });
    const text = `erofs-nbd: ${message}\nhint: ${hint}\n`;
    expect(await run(image)).toEqual({ code: 2, stdout: "", stderr: text });
    expect((await run("-v", image)).stderr).toMatch(/^code: ERR_NO_NBD$/m);
  });

  test("an interrupted attach is finished, undone and ends with 8", async () => {
    let asked = (): void => {};
    const isAsked = new Promise<void>((resolve) => {
      asked = resolve;
    });
    let goOn = (): void => {};
    const isAnswered = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const { requests } = await withManager({
      attach: async () => {
        asked();
        await isAnswered;
        return { device: deviceStatus({ device: "/dev/nbd4", index: 4 }), notes: [] };
      },
      detach: async ({ targets }) => ({
        results: [{ target: targets[0] ?? null, device: "/dev/nbd4", error: null }],
      }),
    });
    const command = startCli(["--run-dir", runDir, "attach", image]);
    await isAsked;
    command.child.kill("SIGINT");
    await command.until("stderr", /^note: interrupted/m);
    goOn();
    const result = await command.ended;
    expect(result).toMatchObject({ code: 8, stdout: "" });
    expect(result.stderr).toMatch(/^erofs-nbd: cannot attach .*: interrupted by SIGINT$/m);
    expect(requests[1]).toEqual({
      method: "detach",
      params: { targets: [{ index: 4 }], all: false, force: false },
    });
  });

  test("a second signal ends at once", async () => {
    let asked = (): void => {};
    const isAsked = new Promise<void>((resolve) => {
      asked = resolve;
    });
    await withManager({
      attach: () => {
        asked();
        return new Promise(() => {});
      },
    });
    const command = startCli(["--run-dir", runDir, "attach", image]);
    await isAsked;
    command.child.kill("SIGTERM");
    await command.until("stderr", /^note: interrupted/m);
    command.child.kill("SIGTERM");
    expect(await command.ended).toMatchObject({ code: 8, stdout: "" });
  });

  test("a manager that was just ending when it took the connection is followed by another", async () => {
    mkdirSync(runDir, { mode: 0o700 });
    const ending = createServer((socket) => {
      ending.close();
      void withManager({ attach: answer }).finally(() => socket.destroy());
    });
    ending.listen(join(runDir, "control.sock"));
    await once(ending, "listening");
    expect(await run(image)).toMatchObject({ code: 0, stdout: "/dev/nbd0\n" });
    expect(manager?.requests.map(({ method }) => method)).toEqual(["attach"]);
  });

  test("a manager that dies in the middle is an error, not a hang", async () => {
    let asked = (): void => {};
    const isAsked = new Promise<void>((resolve) => {
      asked = resolve;
    });
    const fake = await withManager({
      attach: () => {
        asked();
        return new Promise(() => {});
      },
    });
    const command = startCli(["--run-dir", runDir, "attach", image]);
    await isAsked;
    await fake.close();
    manager = undefined;
    const result = await command.ended;
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toMatch(/^erofs-nbd: cannot finish the request: the manager went away$/m);
  });
});

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
