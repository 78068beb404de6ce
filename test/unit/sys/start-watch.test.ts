/** start-watch.ts: a process that hangs is told from one that is slow, by what /proc says of it. */
import { type ChildProcess, spawn } from "node:child_process";
import { afterEach, describe, expect, test } from "vitest";
import { type Pulse, type StartKind, StartWatch } from "../../../src/sys/start-watch.ts";
import { until } from "../../helpers/until.ts";

const SLEEPS: Pulse = { state: "S", cpuTicks: 5, switches: 5 };

/**
 * What a watch says to one pulse every 100 ms, with 1000 ms of patience; a number stands for so many ms without a look.
 */
function verdicts(
  kind: StartKind,
  pulses: ReadonlyArray<Pulse | undefined | number>,
): Array<string | undefined> {
  let nowMs = 0;
  let pulse: Pulse | undefined;
  const watch = new StartWatch(1, kind, { silenceMs: 1000, read: () => pulse });
  return pulses.flatMap((each) => {
    if (typeof each === "number") {
      nowMs += each;
      return [];
    }
    nowMs += 100;
    pulse = each;
    return [watch.look(nowMs)];
  });
}

describe("a pulse", () => {
  test("none for as long as the patience lasts: it hangs", () => {
    const said = verdicts("manager", Array(12).fill(SLEEPS));
    expect(said.slice(0, 10)).toEqual(Array(10).fill(undefined));
    expect(said[10]).toBe("has done nothing for 1 s");
  });

  test.each([
    ["stopped", "T", "is stopped"],
    ["traced", "t", "is stopped"],
    ["in the kernel", "D", "has done nothing for 1 s: it waits in the kernel"],
  ])("%s is told as that", (_, state, why) => {
    expect(verdicts("manager", Array(11).fill({ ...SLEEPS, state })).at(-1)).toBe(why);
  });

  test("a runnable process is starved and does not hang, however long it gets no processor", () => {
    expect(verdicts("worker", Array(100).fill({ ...SLEEPS, state: "R" })).at(-1)).toBeUndefined();
  });

  test("work, now and then, is enough for both", () => {
    const working = Array.from({ length: 100 }, (_, at) => ({ ...SLEEPS, cpuTicks: Math.floor(at / 9) }));
    for (const kind of ["manager", "worker"] as const)
      expect(verdicts(kind, working).every((said) => said === undefined)).toBe(true);
  });

  test("turns of the event loop without work are enough for a manager, not for a worker", () => {
    const turning = Array.from({ length: 20 }, (_, at) => ({ ...SLEEPS, switches: at }));
    expect(verdicts("manager", turning).at(-1)).toBeUndefined();
    expect(verdicts("worker", turning).at(-1)).toBe("has done nothing for 2 s");
  });

  test("time in which nobody looked is not held against it", () => {
    expect(verdicts("manager", [SLEEPS, 60_000, SLEEPS]).at(-1)).toBeUndefined();
  });

  test("a process that has ended is not for the watch to tell", () => {
    expect(verdicts("manager", Array(20).fill(undefined)).at(-1)).toBeUndefined();
  });
});

describe("a real process", () => {
  let child: ChildProcess | undefined;
  afterEach(() => void child?.kill("SIGKILL"));

  /** Looks every few milliseconds until the watch gives up. */
  async function untilTrouble(
    kind: StartKind,
    script: string,
    begin?: () => void,
  ): Promise<string | undefined> {
    child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "ignore"] });
    await new Promise((resolve) => child?.stdout?.once("data", resolve));
    begin?.();
    const watch = new StartWatch(child.pid ?? -1, kind, { silenceMs: 500 });
    let trouble: string | undefined;
    await until("the watch gives up", () => {
      trouble = watch.look();
      return trouble !== undefined;
    });
    return trouble;
  }
  const READY = 'process.stdout.write("ready");';

  test("one that is stopped has no pulse", async () => {
    const script = `${READY} for (;;) {}`;
    expect(await untilTrouble("manager", script, () => child?.kill("SIGSTOP"))).toBe("is stopped");
  });

  test("a worker that only waits has none, though its event loop turns", async () => {
    const script = `${READY} setInterval(() => {}, 20);`;
    expect(await untilTrouble("worker", script)).toMatch(/^has done nothing for/);
  });

  test("one that works and a manager whose event loop turns have one", async () => {
    for (const [kind, script] of [
      ["worker", `${READY} for (;;) {}`],
      ["manager", `${READY} setInterval(() => {}, 20);`],
    ] as const) {
      child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "ignore"] });
      await new Promise((resolve) => child?.stdout?.once("data", resolve));
      const watch = new StartWatch(child.pid ?? -1, kind, { silenceMs: 500 });
      let looks = 0;
      await until("200 looks", () => {
        expect(watch.look()).toBeUndefined();
        looks += 1;
        return looks === 200;
      });
      child.kill("SIGKILL");
    }
  });
});
