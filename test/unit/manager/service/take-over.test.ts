/** `manager --take-over` and a manager as a service: the run directory changes hands, the service manager is told. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ControlClient } from "../../../../src/control/client.ts";
import { chooseRunDir, lockHolder } from "../../../../src/control/run-dir.ts";
import { prepareRunDir } from "../../../../src/control/run-dir-trust.ts";
import { lockRunDir } from "../../../../src/control/run-lock.ts";
import { lockInsteadOfOther } from "../../../../src/manager/service/take-over.ts";
import { DatagramReceiver } from "../../../helpers/sockets/datagram-receiver.ts";
import { until } from "../../../helpers/until.ts";
import { type RunningCli, startCli } from "../../cli/run-cli.ts";

let base: string;
let runDir: ReturnType<typeof chooseRunDir>;
let receiver: DatagramReceiver;
let started: RunningCli[];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "erofs-nbd-take-over-"));
  runDir = chooseRunDir(join(base, "run"));
  receiver = new DatagramReceiver(join(base, "notify"));
  started = [];
});
afterEach(async () => {
  for (const { child } of started) child.kill("SIGTERM");
  await Promise.all(started.map(({ ended }) => ended));
  receiver.close();
  rmSync(base, { recursive: true });
});

function startManager(args: readonly string[], env: NodeJS.ProcessEnv = {}): RunningCli {
  const cli = startCli(["manager", "--run-dir", runDir.path, ...args], { env });
  started.push(cli);
  return cli;
}

/** A manager as a service manager starts it. */
const startService = (more: NodeJS.ProcessEnv = {}): RunningCli =>
  startManager(["--take-over"], { NOTIFY_SOCKET: receiver.address, ...more });

async function pidOfManager(): Promise<number> {
  let pid = 0;
  await until("a manager answers", async () => {
    const client = await ControlClient.connect(runDir);
    pid = (await client?.request("hello", {}))?.pid ?? 0;
    client?.close();
    return pid > 0;
  });
  return pid;
}

const environmentOf = (pid: number): string => readFileSync(`/proc/${pid}/environ`, "utf8");

/** The workers of a manager, once both run their own program: a fresh fork has the environment of its parent. */
async function workersOf(pid: number): Promise<number[]> {
  const commandOf = (one: number): string => readFileSync(`/proc/${one}/cmdline`, "latin1");
  const children = (): number[] =>
    readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").map(Number).filter(Boolean);
  await until("both workers run", () => children().length === 2);
  await until("both run their program", () => children().every((one) => commandOf(one) !== commandOf(pid)));
  return children();
}

describe("a manager as a service", () => {
  test("is ready when it answers, sends beats, renews its workers at SIGHUP, and reports its end", async () => {
    const { child, ended } = startService({ WATCHDOG_USEC: "200000" });
    expect(await receiver.line("READY", "1")).toMatchObject({ STATUS: "no devices" });
    const client = await ControlClient.connect(runDir);
    expect(await client?.request("hello", {})).toMatchObject({ pid: child.pid });
    client?.close();
    await until("some beats", () => receiver.values("WATCHDOG").length > 2);
    const before = await workersOf(child.pid ?? 0);
    child.kill("SIGHUP");
    await receiver.line("RELOADING", "1");
    await until("it is over", () => receiver.values("READY").length === 2);
    await until("the old ones have ended", async () => {
      const now = await workersOf(child.pid ?? 0);
      return !now.some((pid) => before.includes(pid));
    });
    child.kill("SIGTERM");
    await receiver.line("STOPPING", "1");
    expect(await ended).toMatchObject({ code: 0 });
    const told = receiver.values("READY").length + receiver.values("STOPPING").length;
    expect(told).toBe(3);
  });

  test("does not pass the service manager's variables to its workers", async () => {
    const { child } = startService({ WATCHDOG_USEC: "30000000" });
    await receiver.line("READY");
    for (const pid of await workersOf(child.pid ?? 0))
      expect(environmentOf(pid)).not.toMatch(/NOTIFY_SOCKET|WATCHDOG/);
  });

  test("that a command started does not notify the command's service manager", async () => {
    startManager(["--auto"], { NOTIFY_SOCKET: receiver.address, WATCHDOG_USEC: "20000" });
    const pid = await pidOfManager();
    for (const worker of await workersOf(pid)) expect(environmentOf(worker)).not.toContain("NOTIFY_SOCKET");
    expect(receiver.messages).toEqual([]);
  });
});

describe("--take-over", () => {
  test("makes an automatic manager step down: it ends with 0, and the service is ready", async () => {
    const automatic = startManager(["--auto"]);
    const first = await pidOfManager();
    const { child } = startService();
    await receiver.line("READY");
    expect(await automatic.ended).toMatchObject({ code: 0 });
    expect(await pidOfManager()).toBe(child.pid);
    expect(lockHolder(runDir)).toBe(child.pid);
    expect(first).not.toBe(child.pid);
  });

  test("without a running manager starts one", async () => {
    startManager(["--take-over"]);
    expect(await pidOfManager()).toBeGreaterThan(0);
  });

  test("two at once: one steps down for the other", async () => {
    const one = startService();
    const other = startService();
    await until("both were ready", () => receiver.values("READY").length === 2);
    const ended = await Promise.race([one.ended, other.ended]);
    expect(ended.code).toBe(0);
    expect([one.child.pid, other.child.pid]).toContain(await pidOfManager());
  });

  test("a holder that does not answer keeps the run directory, and its pid is returned", async () => {
    prepareRunDir(runDir);
    const lock = lockRunDir(runDir);
    const quiet = { info: () => {}, warn: () => {}, error: () => {} };
    expect(await lockInsteadOfOther(runDir, quiet, 100)).toEqual({ heldBy: process.pid });
    if ("release" in lock) lock.release();
    expect(await lockInsteadOfOther(runDir, quiet, 100)).toHaveProperty("release");
  });
});
