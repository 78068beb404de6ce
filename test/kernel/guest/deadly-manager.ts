/**
 * A manager that is killed at the steps of what it does, and what tests expect after each of its deaths.
 *
 * The steps are those of deadly-manager.mjs: records, commands to the kernel, links on their way from worker to worker.
 */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import {
  allWorkers,
  attach,
  detachAll,
  expectFlawless,
  reach,
  readsInFlight,
  startReader,
  status,
  statuses,
  successorOf,
  until,
  untilAsync,
} from "./product.ts";
import { attachOver, journalFiles } from "./takeover-rig.ts";

const DEADLY = fileURLToPath(new URL("../../helpers/processes/deadly-manager.mjs", import.meta.url));
const STEPS = "/run/deadly-steps";
const DIED = `${STEPS}.died`;
/** More than any of these takes: an end to the rounds when something never gets through. */
export const MOST_STEPS: number = 30;
let round = 0;
const RECORDS = "/run/erofs-nbd/devices";

/** Loads the killer into every process that the tests of a file start. */
export function useDeadlyManager(): void {
  beforeAll(() => {
    process.env["NODE_OPTIONS"] = `--import ${DEADLY}`;
    process.env["DEADLY_STEPS"] = STEPS;
  });
  afterAll(() => {
    delete process.env["NODE_OPTIONS"];
    delete process.env["DEADLY_STEPS"];
  });
}

/** From now on the manager dies at the first step that is not among these. */
export function arm(survived: readonly string[]): void {
  rmSync(DIED, { force: true });
  round += 1;
  writeFileSync(`${STEPS}.new`, JSON.stringify({ round, survived }));
  renameSync(`${STEPS}.new`, STEPS);
}

/** Where it died; undefined: it got through. */
export function disarm(): string | undefined {
  rmSync(STEPS, { force: true });
  return existsSync(DIED) ? readFileSync(DIED, "utf8") : undefined;
}

/** Whole ones: one that is just being written has another name until then. */
export const records = (): string[] =>
  existsSync(RECORDS) ? readdirSync(RECORDS).filter((name) => name.endsWith(".json")) : [];

/**
 * Does something again and again while readers read an image's device, and kills the manager at another step each
 * time. Returns where it died.
 */
export async function atEveryStep(
  image: string,
  act: (device: DeviceStatus) => Promise<void>,
): Promise<string[]> {
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
  expect(records()).toEqual([]);
  expect(journalFiles()).toEqual([]);
  return deaths;
}

const isServing = async (node: string): Promise<boolean> =>
  (await statuses().catch(() => [])).some(({ device, state }) => device === node && state === "serving");

/** It died at these instants, among others. */
export function expectDeaths(deaths: readonly string[], ...names: readonly string[]): void {
  const all = deaths.join("; ");
  for (const name of names) expect(all).toContain(name);
}

/** An attach without a command's start, which would be most of the time here. Starts the manager if need be. */
export async function attachHere(path: string): Promise<DeviceStatus> {
  const client = await reach();
  try {
    return await attachOver(client, path);
  } finally {
    client.close();
  }
}
