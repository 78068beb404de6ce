/**
 * What tests of failovers share: an image, warm spares, kills at random moments with reads on the wire, outcomes, a
 * quiet kernel. Nothing here asserts how long anything took.
 */
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, expect } from "vitest";
import type { ControlClient } from "../../../src/control/client.ts";
import type { AttachParams, DeviceEvent, DeviceStatus } from "../../../src/control/protocol.ts";
import { chooseRunDir } from "../../../src/control/run-dir.ts";
import { toAttachParams } from "../../../src/library/options.ts";
import { fillDirectory, makeImage } from "../../helpers/images/erofs-image.ts";
import { formatRecord } from "../lab/report/kernel-log.ts";
import type { Guard } from "./leftovers.ts";
import { afterFailovers, bothWorkersOf, readsInFlight, until, type Watcher, workerOf } from "./product.ts";

const { devices: RECORDS, journals: JOURNALS, workers: WORKER_SOCKETS } = chooseRunDir(undefined);
/** Kills come at any moment within this time. */
const RANDOM_MS = 80;

/**
 * For `attach`. Where reads wait for a worker that is just starting, the kernel's "Possible stuck request" would only
 * mean that the machine is slow, and the tests expect no line in the log. And a worker that a test stops must not be
 * killed by the manager.
 */
export const PATIENT: readonly string[] = ["--io-timeout", "30000", "--hang-timeout", "60000"];
/** The same for tests of hangs. */
export const HANGABLE: readonly string[] = ["--io-timeout", "30000"];

export type FailoverEvent = Extract<DeviceEvent, { readonly event: "failover" }>;

/** An EROFS image in a directory of its own, for the tests of the calling file. */
export function useImage(
  name: string,
  sizeBytes: number,
): { readonly directory: string; readonly image: string } {
  const directory = mkdtempSync(`/tmp/${name}-`);
  const image = join(directory, "image.erofs");
  beforeAll(async () => {
    fillDirectory(join(directory, "tree"), 20, sizeBytes);
    await makeImage(image, join(directory, "tree"));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return { directory, image };
}

/** Waits until a second worker has started: a worker takes its name when it is ready. */
export async function warm(managerPid: number): Promise<void> {
  await bothWorkersOf(managerPid);
}

/** What the kernel logs of nbd from now on; call the result for what there was. */
export function kernelWords(guard: Guard): () => string[] {
  const before = guard.kernelLog().length;
  return () =>
    guard
      .kernelLog()
      .slice(before)
      // Reads of a stalled device wait, on a busy machine for 30 s and more.
      .filter(({ text }) => /nbd|I\/O|block/.test(text) && !/Possible stuck request/.test(text))
      .map(formatRecord);
}

/**
 * Kills the worker of link 0, time and again, at moments that only chance knows but for one thing: reads are on the
 * wire. Waits for a warm spare before and for the outcome after each. Returns the workers that died, in order.
 */
export async function killAtRandom(
  device: DeviceStatus,
  kills: number,
): Promise<{ readonly victims: readonly number[]; readonly after: DeviceStatus }> {
  const victims: number[] = [];
  let after = device;
  for (let kill = 1; kill <= kills; kill += 1) {
    await warm(device.managerPid);
    await delay(Math.random() * RANDOM_MS);
    await until("reads on the wire", () => readsInFlight(device.index ?? -1) > 0);
    const victim = workerOf(after);
    process.kill(victim, "SIGKILL");
    victims.push(victim);
    after = await afterFailovers(device.device ?? "", kill);
  }
  return { victims, after };
}

/** The outcomes that a watcher has heard of, once there are `count` of them. */
export async function outcomes(watcher: Watcher, count: number): Promise<readonly FailoverEvent[]> {
  const told = (): FailoverEvent[] =>
    watcher.events.filter((event): event is FailoverEvent => event.event === "failover");
  await until(`${count} outcomes`, () => told().length >= count);
  return told();
}

/** Every failover was a takeover, `count` of them, over the sockets that the kernel had from the start. */
export function expectTakeovers(after: DeviceStatus, count: number): void {
  expect(after.counters).toMatchObject({ takeovers: count, reconnects: 0, failedFailovers: 0 });
  expect(after.lastFailover).toMatchObject({ result: "recovered", level: "takeover" });
  expect(after.links.map(({ state, generation }) => ({ state, generation }))).toEqual(
    after.links.map(() => ({ state: "up", generation: 1 })),
  );
}

/** Opens an image and has a manager attach it, as the command does. */
export async function attachOver(
  client: ControlClient,
  path: string,
  changes: Partial<AttachParams> = {},
): Promise<DeviceStatus> {
  const fd = openSync(path, "r");
  try {
    return (
      await client.request("attach", { ...toAttachParams(path, { interface: "netlink" }), ...changes }, fd)
    ).device;
  } finally {
    closeSync(fd);
  }
}

/** Records of devices. One that is being written has another name until it is whole. */
export const recordFiles = (): string[] =>
  existsSync(RECORDS) ? readdirSync(RECORDS).filter((name) => name.endsWith(".json")) : [];
export const journalFiles = (): string[] => readdirSync(JOURNALS);
export const workerSockets = (): string[] => readdirSync(WORKER_SOCKETS);
