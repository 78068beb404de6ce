/**
 * status, its --watch, and doctor's look at the manager, against a manager that the test plays.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { formatTable } from "../../../src/cli/output.ts";
import { until } from "../../helpers/until.ts";
import { deviceStatus, Fault } from "./fake-manager.ts";
import { runDir, useManagerRig, withManager } from "./manager-rig.ts";
import { runCli, startCli } from "./run-cli.ts";

const run = (...args: string[]) => runCli(["--run-dir", runDir, ...args]);

useManagerRig();

describe("status", () => {
  const devices = [deviceStatus(), deviceStatus({ device: "/dev/nbd5", index: 5, mountPoints: ["/mnt"] })];

  test("prints a table, notes on stderr; --json an array", async () => {
    const { requests } = await withManager({
      status: async () => ({ devices, notes: ["nbd0 was taken over"] }),
    });
    const text = { stderr: "note: nbd0 was taken over\n", code: 0 };
    expect(await run("status")).toEqual({ ...text, stdout: `${formatTable(devices)}\n` });
    const json = await run("status", "--json");
    expect(JSON.parse(json.stdout)).toEqual(devices);
    expect(requests.map(({ params }) => params)).toEqual([{ target: null }, { target: null }]);
  });

  test("with a target --json is one object; one that is not attached ends with 3", async () => {
    await withManager({
      status: async ({ target }) => {
        if (target !== null && "index" in target && target.index === 0) {
          return { devices: devices.slice(0, 1), notes: [] };
        }
        const message = "cannot find nbd1: it is not attached";
        throw new Fault({ code: "ERR_NOT_ATTACHED", message, exitCode: 3 });
      },
    });
    expect(JSON.parse((await run("status", "--json", "nbd0")).stdout)).toEqual(devices[0]);
    const absent = await run("status", "--json", "nbd1");
    expect(absent).toEqual({
      code: 3,
      stdout: "",
      stderr: "erofs-nbd: cannot find nbd1: it is not attached\n",
    });
  });

  test("a closed output ends the command without an error", async () => {
    let goOn = (): void => {};
    const isClosed = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const { requests } = await withManager({
      status: async () => {
        await isClosed;
        return { devices, notes: [] };
      },
    });
    const command = startCli(["--run-dir", runDir, "status"]);
    await until("it is asked", () => requests.some(({ method }) => method === "status"));
    command.child.stdout.destroy();
    goOn();
    expect(await command.ended).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("a bug of the manager's ends with 4", async () => {
    await withManager({});
    expect(await run("status")).toMatchObject({ code: 4, stdout: "" });
  });
});

describe("status --watch", () => {
  const at = "2026-01-02T03:04:05.678Z";
  const answers = { watch: async () => ({}), status: async () => ({ devices: [deviceStatus()], notes: [] }) };

  test("the devices, then events, one line each; a signal ends it with 0", async () => {
    const fake = await withManager(answers);
    const command = startCli(["--run-dir", runDir, "status", "--watch"]);
    await command.until("stdout", /^\/dev\/nbd0 .*\n/m);
    fake.tell({ at, device: "/dev/nbd0", event: "stalled", message: "no worker" });
    await command.until("stdout", /stalled: no worker\n/);
    command.child.kill("SIGINT");
    const result = await command.ended;
    expect(result).toMatchObject({ code: 0, stderr: "" });
    expect(result.stdout).toBe(`${formatTable([deviceStatus()])}\n${at}  /dev/nbd0  stalled: no worker\n`);
  });

  test("in JSON every line is an object with at, device and event; a target leaves others out", async () => {
    const fake = await withManager(answers);
    const command = startCli(["--run-dir", runDir, "status", "--watch", "--json", "nbd0"]);
    await command.until("stdout", /"event":"status"/);
    fake.tell({ at, device: "/dev/nbd1", event: "revived" });
    fake.tell({ at, device: "/dev/nbd0", event: "detached", message: "asked for" });
    await command.until("stdout", /"event":"detached"/);
    command.child.kill("SIGTERM");
    const { code, stdout } = await command.ended;
    expect(code).toBe(0);
    const lines = stdout.trim().split("\n");
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
      { at: expect.any(String), device: "/dev/nbd0", event: "status", status: deviceStatus() },
      { at, device: "/dev/nbd0", event: "detached", message: "asked for" },
    ]);
  });

  test("it continues with the manager's successor", async () => {
    const fake = await withManager(answers);
    const command = startCli(["--run-dir", runDir, "status", "--watch", "--json"]);
    await command.until("stdout", /"event":"status"/);
    await fake.close();
    await command.until("stdout", /"event":"note","message":"the manager went away/);
    const next = deviceStatus({ device: "/dev/nbd9", index: 9 });
    const successor = await withManager({ ...answers, status: async () => ({ devices: [next], notes: [] }) });
    await command.until("stdout", /"device":"\/dev\/nbd9","event":"status"/);
    successor.tell({ at, device: "/dev/nbd9", event: "revived" });
    await command.until("stdout", /"event":"revived"/);
    command.child.kill("SIGINT");
    expect((await command.ended).code).toBe(0);
  });

  test("a reader that leaves ends it quietly", async () => {
    const fake = await withManager(answers);
    const command = startCli(["--run-dir", runDir, "status", "--watch"]);
    await command.until("stdout", /^\/dev\/nbd0 .*\n/m);
    command.child.stdout.destroy();
    fake.tell({ at, device: "/dev/nbd0", event: "revived" });
    expect(await command.ended).toMatchObject({ code: 0, stderr: "" });
  });

  test("a signal ends it while the manager does not answer", async () => {
    const { requests } = await withManager({ ...answers, status: () => new Promise(() => {}) });
    const command = startCli(["--run-dir", runDir, "status", "--watch"]);
    await until("it is asked", () => requests.some(({ method }) => method === "status"));
    command.child.kill("SIGINT");
    expect(await command.ended).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("a target that is not attached ends with 3", async () => {
    await withManager({
      ...answers,
      status: () => {
        throw new Fault({
          code: "ERR_NOT_ATTACHED",
          message: "cannot find nbd1: it is not attached",
          exitCode: 3,
        });
      },
    });
    expect(await run("status", "--watch", "nbd1")).toMatchObject({ code: 3, stdout: "" });
  });
});

describe("doctor", () => {
  const managerCheck = async (): Promise<unknown> => {
    const { checks } = JSON.parse((await run("doctor", "--json")).stdout) as {
      checks: Array<{ name: string }>;
    };
    return checks.find(({ name }) => name === "manager");
  };

  test("names the manager that runs", async () => {
    await withManager({ hello: async () => ({ version: "1.2.3", pid: 4711 }) });
    expect(await managerCheck()).toMatchObject({ state: "ok", detail: "version 1.2.3, pid 4711" });
  });

  test("warns about devices of a dead manager, and starts no manager", async () => {
    mkdirSync(join(runDir, "devices"), { recursive: true });
    writeFileSync(join(runDir, "devices", "x.json"), "{}");
    expect(await managerCheck()).toMatchObject({
      state: "warn",
      detail: expect.stringContaining("left devices"),
    });
  });

  test("does not wait for a manager that does not answer", async () => {
    await withManager({ hello: () => new Promise(() => {}) });
    expect(await managerCheck()).toMatchObject({ state: "fail", detail: "it does not answer" });
  });
});
