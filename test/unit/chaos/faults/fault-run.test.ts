/**
 * One fault from aim to account, against a manager that the test plays and processes that really die: what recovers,
 * what is missing, what does not add up, and what was not requested.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DeviceWatch } from "../../../../src/chaos/device-watch.ts";
import { FaultRun } from "../../../../src/chaos/faults/fault-run.ts";
import { Victims } from "../../../../src/chaos/faults/victims.ts";
import type { FaultKind } from "../../../../src/chaos/run.ts";
import { RunLog } from "../../../../src/chaos/run-log.ts";
import { ControlClient } from "../../../../src/control/client.ts";
import type { DeviceEvent, DeviceStatus } from "../../../../src/control/protocol.ts";
import { chooseRunDir } from "../../../../src/control/run-dir.ts";
import { ErofsNbdError } from "../../../../src/errors.ts";
import { deviceStatus, type FakeManager, startFakeManager } from "../../cli/fake-manager.ts";

const never = new AbortController().signal;
const TIMES = { reads: 10, longestMs: 12.5, type: "settled" } as const;

let directory: string;
let manager: FakeManager;
let worker: ChildProcess;
let now: DeviceStatus;
let cut: number;
let log: RunLog;
let problems: string[];
let victims: Victims;
let watch: DeviceWatch;
let areReadsFlowing: boolean;
/** What an upgrade does to the device, and its longest stall. */
let upgrade: () => Promise<number>;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "fault-run-"));
  worker = spawn("sleep", ["600"], { stdio: "ignore" });
  now = deviceStatus({
    managerPid: process.pid,
    links: [{ index: 0, state: "up", workerPid: worker.pid ?? 0, generation: 1 }],
  });
  cut = 0;
  problems = [];
  areReadsFlowing = true;
  upgrade = () => Promise.reject(new Error("no upgrade was requested"));
  victims = new Victims();
  manager = await startFakeManager(directory, {
    watch: () => ({}),
    status: () => ({ devices: [now], notes: [] }),
    cutLinks: () => {
      cut += 1;
      recover("reconnect");
      return {};
    },
  });
  const note = (): void => {};
  watch = new DeviceWatch({ index: 0 }, () => ControlClient.connect(chooseRunDir(directory)), note);
});
afterEach(async () => {
  victims.endStopped();
  worker.kill("SIGKILL");
  watch.disconnect();
  await manager.close();
  rmSync(directory, { recursive: true });
});

/** Counts a failover and, unless told otherwise, tells of it. */
function recover(level: "takeover" | "reconnect", isTold = true): void {
  const counters = { ...now.counters };
  counters[level === "takeover" ? "takeovers" : "reconnects"] += 1;
  now = { ...now, counters };
  const outcome = { result: "recovered", level, cause: "a test", stallMs: 11, strandedReads: 3 };
  const event = { at: "2026-01-01T00:00:00.000Z", device: "/dev/nbd0", event: "failover", ...outcome };
  if (isTold) manager.tell(event as DeviceEvent);
}

async function newRun(deadlineMs = 10_000): Promise<FaultRun> {
  const device = await watch.status(never);
  log = new RunLog({ seed: 1, intervalMs: 1, what: ["worker"], depth: 1 }, device);
  return new FaultRun({
    watch,
    reader: {
      open: async () => {},
      settle: () => (areReadsFlowing ? Promise.resolve(TIMES) : Promise.reject(new Error("no"))),
    },
    victims,
    upgrade: () => upgrade(),
    log,
    device,
    deadlineMs,
    sinceBeginMs: () => 1000,
    isReading: () => true,
    phase: () => {},
    problem: (line) => void problems.push(line),
  });
}

const fault = (kind: FaultKind) => ({ kind, waitMs: 0, pick: 0 });

test("a killed worker, one takeover: outcome, stall and account", async () => {
  const run = await newRun();
  worker.once("exit", () => recover("takeover"));
  expect(await run.next(fault("worker"), never)).toEqual({
    kind: "worker",
    atMs: 1000,
    label: `SIGKILL to worker ${worker.pid}`,
    outcome: { level: "takeover", result: "recovered", cause: "a test", stallMs: 11 },
    longestReadMs: 12.5,
    takeovers: 1,
    reconnects: 0,
  });
  await run.settleAccounts(never);
  expect(problems).toEqual([]);
  expect(worker.signalCode).toBe("SIGKILL");
});

test("a cut link, one reconnect; nobody is signalled", async () => {
  const run = await newRun();
  const found = await run.next(fault("link"), never);
  expect(found).toMatchObject({ label: "the link of /dev/nbd0 cut", outcome: { level: "reconnect" } });
  expect([cut, problems]).toEqual([1, []]);
  expect(worker.signalCode).toBe(null);
});

test("a hang that nobody notices ends the run, and says what is missing and how reads are", async () => {
  areReadsFlowing = false;
  const run = await newRun(150);
  await expect(run.next(fault("hang"), never)).rejects.toThrow(/in vain/);
  const line =
    `SIGSTOP to worker ${worker.pid}: ` +
    "waited 0.15 s in vain until it had an outcome and every link was up; reads stand still";
  expect(problems).toEqual([line]);
  expect(log.faults).toMatchObject([{ kind: "hang", outcome: { level: "none", result: "missing" } }]);
  expect(log.toRun(1, { reads: 0, bytes: 0, wrong: 0, errors: 0 })).toMatchObject({
    verdict: "failed",
    problems: [line],
    totals: { uncounted: 1 },
  });
  expect(victims.endStopped()).toEqual([worker.pid]);
  await once(worker, "exit");
});

test("a failover that is counted and not told of is a problem, and the run goes on", async () => {
  const run = await newRun();
  worker.once("exit", () => recover("takeover", false));
  const found = await run.next(fault("worker"), never);
  expect(found.outcome).toMatchObject({ result: "recovered" });
  expect(problems).toEqual([`SIGKILL to worker ${worker.pid}: status counts 1 takeovers, the events tell 0`]);
});

test("a failover that nobody asked for is a problem of the time after the last fault", async () => {
  const run = await newRun();
  await run.next(fault("link"), never);
  recover("takeover");
  await run.settleAccounts(never);
  expect(problems).toEqual(["after the link of /dev/nbd0 cut: 1 failovers were counted, wanted exactly 0"]);
});

test("another manager after a mere cut is a problem", async () => {
  const run = await newRun();
  await run.next(fault("link"), never);
  now = { ...now, managerPid: 1 };
  await run.settleAccounts(never);
  expect(problems).toEqual([`after the link of /dev/nbd0 cut: manager ${process.pid} is gone, unasked`]);
});

test("a killed manager whose successor needs no failover", async () => {
  const former = spawn("sleep", ["600"], { stdio: "ignore" });
  now = { ...now, managerPid: former.pid ?? 0 };
  const run = await newRun();
  former.once("exit", () => {
    now = { ...now, managerPid: process.pid };
  });
  const found = await run.next(fault("manager"), never);
  expect(found).toMatchObject({ outcome: { level: "none", result: "recovered", stallMs: 0 }, reconnects: 0 });
  expect(former.signalCode).toBe("SIGKILL");
  expect([problems, worker.signalCode]).toEqual([[], null]);
});

test("an upgrade: every link handed over by another manager, and the stall that it measured", async () => {
  const run = await newRun();
  const renewed = { ...now, managerPid: 1, counters: { ...now.counters, handovers: 1 } };
  upgrade = async () => {
    now = renewed;
    return 4.5;
  };
  expect(await run.next(fault("upgrade"), never)).toMatchObject({
    label: "upgrade of manager and workers",
    outcome: { level: "none", result: "recovered", stallMs: 4.5 },
  });
  expect([problems, worker.signalCode]).toEqual([[], null]);
});

test("an upgrade that fails ends the run, with its own words", async () => {
  const run = await newRun();
  const why = new ErofsNbdError("ERR_WORKER", "cannot replace the workers: none of the new ones starts");
  upgrade = () => Promise.reject(why);
  await expect(run.next(fault("upgrade"), never)).rejects.toThrow(why.message);
  expect(problems).toEqual([`upgrade of manager and workers: ${why.message}`]);
  expect(log.faults).toMatchObject([{ outcome: { result: "failed", cause: why.message } }]);
});
