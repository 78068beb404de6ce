/**
 * A manager that is killed at every step of what it does: no read is lost, nothing is left behind, no command is needed.
 *
 * Each round kills the manager at the first step where none has died yet, until it gets through. The guardian that it
 * leaves starts the next one.
 */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ControlClient } from "../../../src/control/client.ts";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { LIMITS } from "../../limits.mjs";
import { guarded, LINK_DEATH_LINES, READ_FAILURE_LINES } from "./leftovers.ts";
import {
  allWorkers,
  ask,
  attach,
  cleanUpAfterFailure,
  detachAll,
  erofsNbd,
  expectFlawless,
  guardiansOf,
  killTogether,
  managerPids,
  reach,
  readsInFlight,
  startReader,
  status,
  statuses,
  successorOf,
  until,
  untilAsync,
  workerOf,
} from "./product.ts";
import { attachOver, journalFiles, recordFiles, useImage } from "./takeover-rig.ts";

const DEADLY = fileURLToPath(new URL("../../helpers/processes/deadly-manager.mjs", import.meta.url));
const STEPS = "/run/deadly-steps";
const DIED = `${STEPS}.died`;
/** More than any of these takes: an end to the rounds when something never gets through. */
const MOST_STEPS = 30;
let round = 0;
const { directory, image } = useImage("adoption", 8 << 20);

beforeAll(() => {
  process.env["NODE_OPTIONS"] = `--import ${DEADLY}`;
  process.env["DEADLY_STEPS"] = STEPS;
});
afterAll(() => {
  delete process.env["NODE_OPTIONS"];
  delete process.env["DEADLY_STEPS"];
});

/** From now on the manager dies at the first step that is not among these. */
function arm(survived: readonly string[]): void {
  rmSync(DIED, { force: true });
  round += 1;
  writeFileSync(`${STEPS}.new`, JSON.stringify({ round, survived }));
  renameSync(`${STEPS}.new`, STEPS);
}

/** Where it died; undefined: it got through. */
function disarm(): string | undefined {
  rmSync(STEPS, { force: true });
  return existsSync(DIED) ? readFileSync(DIED, "utf8") : undefined;
}

/** Does something repeatedly while readers read, and kills the manager at another step each time. Returns where. */
async function atEveryStep(act: (device: DeviceStatus) => Promise<void>): Promise<string[]> {
  const deaths: string[] = [];
  const first = await attach(image);
  const node = first.device ?? "";
  const reader = await startReader(node, image, 4);
  for (;;) {
    expect(deaths.length).toBeLessThan(MOST_STEPS);
    const device = await status(node);
    // Some of them another manager has started.
    await until("a warm spare", () => allWorkers().length >= 2);
    await until("reads on the wire", () => readsInFlight(device.index ?? -1) > 0);
    arm(deaths);
    await act(device).catch(() => {});
    // The step may come after the act has been answered: nothing is under way any more once the device serves again.
    await untilAsync("the end of it", async () => existsSync(DIED) || (await isServing(node)));
    const death = disarm();
    if (death === undefined) break;
    deaths.push(death);
    await successorOf(device.managerPid);
    await untilAsync("the device", () => isServing(node));
    // What each death cost, for the reader of the output.
    const { counters, lastFailover } = await status(node);
    const found =
      counters.reconnects > device.counters.reconnects ? "reconnected" : "served on, or taken over";
    process.stderr.write(`${death}: ${found}, last stall ${lastFailover?.stallMs ?? 0} ms\n`);
  }
  expectFlawless(await reader.stop());
  const after = await status(node);
  expect(after).toMatchObject({
    identifier: first.identifier,
    counters: { failedFailovers: 0, readErrors: 0 },
  });
  await detachAll();
  expect(recordFiles()).toEqual([]);
  expect(journalFiles()).toEqual([]);
  return deaths;
}

const isServing = async (node: string): Promise<boolean> =>
  (await statuses().catch(() => [])).some(({ device, state }) => device === node && state === "serving");

/** It died at these instants, among others. */
function expectDeaths(deaths: readonly string[], ...names: readonly string[]): void {
  const all = deaths.join("; ");
  for (const name of names) expect(all).toContain(name);
}

/** An attach without a command's start, which would be most of the time here. Starts the manager if need be. */
async function attachHere(path: string): Promise<DeviceStatus> {
  const client = await reach();
  try {
    return await attachOver(client, path);
  } finally {
    client.close();
  }
}

describe("a manager that is killed at every step", { timeout: LIMITS.longTestMs }, () => {
  const guard = guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("of an attach: the next command finds a whole device or none", async () => {
    // The kernel is still looking for partitions when its device goes again.
    guard.expectKernelLog(...READ_FAILURE_LINES, /unable to read (RDB block|partition table)/);
    const deaths: string[] = [];
    // The manager that found the device of one round dies in the next: starting another would be most of the time here.
    let next: ControlClient | undefined;
    for (;;) {
      expect(deaths.length).toBeLessThan(MOST_STEPS);
      arm(deaths);
      const error = await attachHere(image).then(
        () => undefined,
        (thrown: Error) => thrown,
      );
      const death = disarm();
      next?.close();
      if (death === undefined) {
        expect(error).toBeUndefined();
        break;
      }
      deaths.push(death);
      expect(error?.message).toContain("the manager went away");
      // Adopted whole or gone: nothing in between, and no record without a device.
      next = await reach();
      const { devices } = await next.request("status", { target: null });
      expect(recordFiles()).toHaveLength(devices.length);
      for (const { state } of devices) expect(["serving", "reconnecting"]).toContain(state);
      await next.request("detach", { targets: [], all: true, force: false });
      expect(recordFiles()).toEqual([]);
      // A failover that the detach has ended lets go of its fresh link a moment later.
      await until("the end of every link", () => journalFiles().length === 0);
    }
    expectDeaths(deaths, "after writing a record", "before CONNECT", "after CONNECT");
    await detachAll();
    await until("the end of all", () => managerPids().length === 0);
  });

  test("of a takeover: reads wait for its successor, and none is lost", async () => {
    const deaths = await atEveryStep(async (device) => {
      process.kill(workerOf(device), "SIGKILL");
      await untilAsync(
        "the takeover",
        async () => workerOf(await status(device.device ?? "")) !== workerOf(device),
      );
    });
    expectDeaths(deaths, "before settling a journal", "before giving a link to a worker");
  });

  test("of a reconnect: reads wait for its successor, and none is lost", async () => {
    const deaths = await atEveryStep(async (device) => {
      const { index, links } = device;
      await ask("cutLinks", { index: index ?? -1 });
      await untilAsync(
        "the fresh link",
        async () => (await status(device.device ?? "")).links[0]?.generation !== links[0]?.generation,
      );
    });
    expectDeaths(deaths, "before RECONFIGURE", "after RECONFIGURE");
  });

  test("of an upgrade of its workers: reads wait for its successor, and none is lost", async () => {
    const deaths = await atEveryStep(async () => void (await ask("renew", {})));
    expectDeaths(deaths, "after taking a link from a worker", "before giving a link to a worker");
  });

  test("of a detach: the device, its record and its journal are removed", async () => {
    const deaths: string[] = [];
    // As above.
    let next: ControlClient | undefined;
    for (;;) {
      expect(deaths.length).toBeLessThan(MOST_STEPS);
      await attachHere(image);
      next?.close();
      arm(deaths);
      await ask("detach", { targets: [], all: true, force: false }).catch(() => {});
      const death = disarm();
      next = await reach();
      await next.request("detach", { targets: [], all: true, force: false });
      expect((await next.request("status", { target: null })).devices).toEqual([]);
      await until("the end of every link", () => journalFiles().length === 0);
      expect(recordFiles()).toEqual([]);
      if (death === undefined) break;
      deaths.push(death);
    }
    next.close();
    await until("the end of all", () => managerPids().length === 0);
    expectDeaths(deaths, "before DISCONNECT", "after DISCONNECT");
  });

  test("together with its guardian: the next command adopts the device", async () => {
    const device = await attach(join(directory, "image.erofs"));
    const reader = await startReader(device.device ?? "", image, 4);
    let guardians: number[] = [];
    await until("the guardian", () => {
      guardians = guardiansOf(device.managerPid);
      return guardians.length === 1;
    });
    await killTogether(...guardians, device.managerPid);
    const seen = await erofsNbd("status", "--json");
    expect(seen.stderr).toContain("going on");
    expectFlawless(await reader.stop());
    await detachAll();
  });
});
