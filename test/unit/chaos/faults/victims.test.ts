/** Which processes a run may signal: some are gone, stopped or replaced by another process by then. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { chooseWorker, gone, identify, Victims } from "../../../../src/chaos/faults/victims.ts";
import type { DeviceStatus } from "../../../../src/control/protocol.ts";
import { until } from "../../../helpers/until.ts";
import { deviceStatus } from "../../cli/fake-manager.ts";

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

/** A process that does nothing; its pid. */
function sleeper(): number {
  const child = spawn("sleep", ["600"], { stdio: "ignore" });
  children.push(child);
  if (child.pid === undefined) throw new Error("cannot start sleep");
  return child.pid;
}

const stateOf = (pid: number): string => {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.charAt(stat.lastIndexOf(")") + 2);
};

test("identify: a process that has ended is nobody's victim", async () => {
  const child = spawn("true", { stdio: "ignore" });
  await once(child, "exit");
  expect(() => identify(child.pid ?? 0, "worker")).toThrow(`cannot signal worker ${child.pid}: it has ended`);
});

describe("Victims", () => {
  test("kills exactly the process that was identified", async () => {
    const victim = identify(sleeper(), "worker");
    new Victims().signal(victim, "SIGKILL");
    expect(await gone(victim, 20_000)).toBe(true);
  });

  test("never touches another process that has got the pid meanwhile", () => {
    const pid = sleeper();
    const former = { pid, startTime: "1" };
    expect(() => new Victims().signal(former, "SIGKILL")).toThrow(
      `cannot signal process ${pid}: it has ended`,
    );
    expect(identify(pid, "worker").pid).toBe(pid);
  });

  test("ends those that it has stopped, and forgets those that ended otherwise", async () => {
    const victims = new Victims();
    const [kept, ended] = [identify(sleeper(), "worker"), identify(sleeper(), "worker")];
    for (const victim of [kept, ended]) {
      victims.signal(victim, "SIGSTOP");
      await until("it is stopped", () => stateOf(victim.pid) === "T");
    }
    process.kill(ended.pid, "SIGKILL");
    expect(await gone(ended, 20_000)).toBe(true);
    expect(await victims.outlived(1)).toEqual([kept.pid]);
    expect(victims.endStopped()).toEqual([kept.pid]);
    expect(await gone(kept, 20_000)).toBe(true);
    expect(victims.endStopped()).toEqual([]);
  });
});

describe("chooseWorker", () => {
  const device = (...links: Array<[number, "up" | "down"]>): DeviceStatus =>
    deviceStatus({
      links: links.map(([workerPid, state], index) => ({ index, state, workerPid, generation: 1 })),
    });

  test("by the pick, among those with live links; tells how many it has", () => {
    const three = device([7, "up"], [8, "up"], [7, "up"], [9, "down"]);
    expect(chooseWorker(three, 0)).toEqual({ pid: 7, links: 2 });
    expect(chooseWorker(three, 0.49)).toEqual({ pid: 7, links: 2 });
    expect(chooseWorker(three, 0.5)).toEqual({ pid: 8, links: 1 });
    expect(chooseWorker(three, 1)).toEqual({ pid: 8, links: 1 });
  });

  test("none where no link is up", () => {
    expect(() => chooseWorker(device([7, "down"]), 0)).toThrow("cannot find a worker of /dev/nbd0");
  });
});
