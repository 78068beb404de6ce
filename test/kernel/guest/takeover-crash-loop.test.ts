/**
 * Workers that die again and again, or never return: because of an image, or because every worker is killed.
 *
 * The product does not give up and does not use up the machine, other devices are served, and all is served again when
 * the cause is gone. The bad image is made by deadly-image.mjs, which the manager's workers load.
 */
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { guarded } from "./leftovers.ts";
import {
  afterFailovers,
  attach,
  bothWorkersOf,
  CLI,
  cleanUpAfterFailure,
  detachAll,
  expectFlawless,
  killUnderLoad,
  readsInFlight,
  run,
  startReader,
  status,
  statusWhen,
  until,
  watchEvents,
  workerOf,
  workersOf,
} from "./product.ts";
import { expectTakeovers, HANGABLE, kernelWords, outcomes, PATIENT, useImage, warm } from "./takeover-rig.ts";

const DEADLY = fileURLToPath(new URL("../../helpers/processes/deadly-image.mjs", import.meta.url));
const TRIGGERS = "/tmp/deadly-images";
/** Starts of workers that are killed. */
const SPREE = 8;
const { directory, image } = useImage("crash-loop", 12 << 20);

/** Attaches a copy of the image that can kill or hang its workers. Starts the manager that all later devices share. */
async function attachDeadly(
  name: string,
  ...options: string[]
): Promise<{ bad: string; device: DeviceStatus }> {
  const bad = join(directory, `${name}.erofs`);
  copyFileSync(image, bad);
  const words = [CLI, "attach", "--json", ...options, bad];
  mkdirSync(TRIGGERS, { recursive: true, mode: 0o755 });
  const env = { NODE_OPTIONS: `--import ${DEADLY}`, DEADLY_IMAGES: TRIGGERS };
  const attached = await run(process.execPath, words, env);
  expect(attached).toMatchObject({ code: 0 });
  return { bad, device: JSON.parse(attached.stdout) as DeviceStatus };
}

/** The file that makes an image deadly in this way, while it exists. */
const trigger = (bad: string, way: "kills" | "loops"): string => `${TRIGGERS}/${statSync(bad).ino}.${way}`;

describe("an image that kills every worker that reads it", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("stalls its own device with the reason, not its neighbour, and is served again without a command", async () => {
    const { bad, device } = await attachDeadly("kills", ...PATIENT);
    const neighbour = await attach(...PATIENT, image);
    expect(neighbour.managerPid).toBe(device.managerPid);
    const watcher = await watchEvents();
    const readers = [
      await startReader(device.device ?? "", image, 4),
      await startReader(neighbour.device ?? "", image, 4),
    ];
    const words = kernelWords(guard);
    await warm(device.managerPid);

    writeFileSync(trigger(bad, "kills"), "");
    const stalled = await statusWhen(
      device.device ?? "",
      "the stall",
      // While the first successors are starting there is another reason for one.
      ({ state, stalledReason }) =>
        state === "stalled" && stalledReason?.startsWith("its workers die") === true,
    );
    expect(stalled.stalledReason).toMatch(
      /its workers die: \d+ in the last .*killed by SIGABRT; next attempt in/,
    );
    expect(readsInFlight(device.index ?? -1)).toBe(4);

    // The neighbour is served while this one waits, and its worker is none that the bad image gets.
    const { counters, state } = await statusWhen(
      neighbour.device ?? "",
      "a worker of its own",
      (now) => now.state === "serving",
    );
    await statusWhen(
      neighbour.device ?? "",
      "reads meanwhile",
      (now) => now.counters.requests > counters.requests + 20,
    );
    expect(state).toBe("serving");

    rmSync(trigger(bad, "kills"));
    await statusWhen(device.device ?? "", "its recovery", (now) => now.state === "serving");
    await until("answers", () => readsInFlight(device.index ?? -1) < 4);
    expect(words()).toEqual([]);
    for (const reader of readers) expectFlawless(await reader.stop());
    const after = await status(device.device ?? "");
    expect(after.stalledReason).toBeNull();
    expectTakeovers(after, after.counters.takeovers);
    expect(after.counters.takeovers).toBeGreaterThan(0);
    const told = (await outcomes(watcher, after.counters.takeovers)).filter(
      (one) => one.device === device.device,
    );
    expect(told).toHaveLength(after.counters.takeovers);
    const innocent = await status(neighbour.device ?? "");
    expect(innocent.counters).toMatchObject({ reconnects: 0, failedFailovers: 0 });
    expect(innocent.links).toMatchObject([{ state: "up", generation: 1 }]);
    await watcher.stop();
    await detachAll();
  });
});

describe("an image that makes a worker loop forever", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("has its worker killed, and its reads are taken over when the loop is gone", async () => {
    const { bad, device } = await attachDeadly("loops", ...HANGABLE);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    await warm(device.managerPid);
    const victim = workerOf(await status(device.device ?? ""));
    writeFileSync(trigger(bad, "loops"), "");
    await until("eight reads on the wire", () => readsInFlight(device.index ?? -1) >= reader.depth);
    await until("the end of the looping worker", () => !workersOf(device.managerPid).includes(victim));
    rmSync(trigger(bad, "loops"));
    await until("answers", () => readsInFlight(device.index ?? -1) < reader.depth);
    const after = await afterFailovers(device.device ?? "", 1);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expect(after.counters).toMatchObject({ reconnects: 0, failedFailovers: 0 });
    expect(after.links).toMatchObject([{ state: "up", generation: 1 }]);
    expect(readFileSync("/run/erofs-nbd/manager.log", "utf8")).toMatch(
      new RegExp(`worker ${victim} has not answered for [\\d.]+ s: stopped, or stuck in a read of link`),
    );
    await detachAll();
  });
});

/** Whether it was there to be killed: it may have died of the kill before, or of its manager's. */
function killIfThere(pid: number): boolean {
  try {
    return process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    return false;
  }
}

describe("a kill of every worker as soon as it appears", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("makes reads wait, and they go on without a command when the kills stop", async () => {
    const device = await attach(...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    await killUnderLoad(device, await bothWorkersOf(device.managerPid));
    for (let killed = 0; killed < SPREE; ) {
      await until("a fresh worker", () => workersOf(device.managerPid).length > 0);
      for (const pid of workersOf(device.managerPid)) {
        killed += Number(killIfThere(pid));
      }
    }
    const now = await status(device.device ?? "");
    expect(["taking-over", "stalled", "serving"]).toContain(now.state);
    if (now.state === "stalled") expect(now.stalledReason).toMatch(/workers die|no worker is ready/);
    const after = await statusWhen(
      device.device ?? "",
      "service",
      ({ state, lastFailover }) => state === "serving" && lastFailover !== null,
    );
    await until("answers", () => readsInFlight(device.index ?? -1) < reader.depth);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expectTakeovers(after, after.counters.takeovers);
    await detachAll();
  });
});
