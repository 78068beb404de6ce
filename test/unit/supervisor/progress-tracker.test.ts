/** silentMs, the basis of the watchdog: it grows only while a device that is between two states makes no progress. */
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { leavesNoSockets } from "../../helpers/sockets/descriptors.ts";
import { until } from "../../helpers/until.ts";
import { Bench } from "./bench.ts";

leavesNoSockets();

/** Longer than any single step of the bench's timing, also on a busy machine. */
const LONG_MS = 3000;

test("a device that serves has no silence", async () => {
  const bench = await Bench.attached();
  await sleep(30);
  expect(bench.device.silentMs).toBe(0);
  await bench.close();
  expect(bench.device.silentMs).toBe(0);
});

test("a failover whose attempts fail makes progress: the silence stays short", async () => {
  const bench = await Bench.attached();
  let longest = 0;
  bench.kernel.readsArrive = false;
  bench.server.last.kill();
  for (let n = 0; n < 100 && bench.said.length < 6; n += 1) {
    await sleep(10);
    longest = Math.max(longest, bench.device.silentMs);
  }
  await until("some attempts", () => bench.said.filter((line) => line.startsWith("attempt")).length >= 4);
  expect(longest).toBeGreaterThan(0);
  expect(longest).toBeLessThan(LONG_MS);
  bench.kernel.readsArrive = true;
  await bench.outcome();
  expect(bench.device.silentMs).toBe(0);
  await bench.close();
});

test("a failover that hangs is silent: no worker comes, and the deadline is ignored", async () => {
  const bench = await Bench.attached();
  let finish = (): void => {};
  const hangs = new Promise<void>((resolve) => {
    finish = resolve;
  });
  bench.server.plan.push(async (open) => {
    await hangs;
    return open();
  });
  bench.server.last.kill();
  await until("a long silence", () => bench.device.silentMs > LONG_MS);
  expect(bench.device.state).toBe("reconnecting");
  finish();
  await bench.outcome();
  expect(bench.device.silentMs).toBe(0);
  await bench.close();
});

test("time in which the kernel does not answer does not count", async () => {
  const bench = await Bench.attached();
  let answer = (): void => {};
  let asked = false;
  bench.kernel.hooks.beforeReconfigure = () => {
    asked = true;
    return new Promise<void>((resolve) => {
      answer = resolve;
    });
  };
  bench.server.last.kill();
  await until("the command is there", () => asked);
  await sleep(LONG_MS);
  expect(bench.device.silentMs).toBe(0);
  delete bench.kernel.hooks.beforeReconfigure;
  answer();
  await bench.outcome();
  await bench.close();
});
