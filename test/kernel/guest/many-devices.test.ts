/**
 * Hundreds of devices on one manager and two workers: attached, read, moved when a worker dies, adopted by the next
 * manager, reconnected when all die together, detached.
 *
 * Prints what it took. Times are not asserted, because a guest's kernel is slow by an unknown factor; memory is.
 */
import { copyFileSync, readdirSync, readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { DeviceEvent, DeviceStatus } from "../../../src/control/protocol.ts";
import { LIMITS } from "../../limits.mjs";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  allGone,
  allWorkers,
  cleanUpAfterFailure,
  erofsNbdOk,
  expectFlawless,
  guardiansOf,
  killTogether,
  reach,
  startReader,
  status,
  statuses,
  successorOf,
  until,
  untilAsync,
  workerOf,
} from "./product.ts";
import { SOAK } from "./soak.ts";
import { attachOver, useImage, warm } from "./takeover-rig.ts";

const DEVICES = SOAK === 1 ? 300 : 500;
/** By then the heaps of manager and workers have grown to what hundreds of devices need, and each one adds its own. */
const FIRST = 150;
/** As many attaches at once as an orchestrator might do. */
const AT_ONCE = 8;
const MOST_BYTES = 300e6;
const MOST_BYTES_PER_DEVICE = 100e3;
const { directory, image } = useImage("many", 1 << 20);

const pathOf = (number: number): string => join(directory, `${number}.erofs`);

/** Does something for each number, a few at a time. */
async function forEach(numbers: readonly number[], act: (number: number) => Promise<void>): Promise<void> {
  const left = [...numbers];
  const lane = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await act(next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, at) => from + at);

interface Memory {
  rssBytes: number;
  pssBytes: number;
  /** Resident bytes by process. */
  readonly each: Map<string, number>;
}

/** Resident memory of a manager, its workers and its guardian, shared pages counted in each, and once. */
function memoryOf(managerPid: number): Memory {
  const total: Memory = { rssBytes: 0, pssBytes: 0, each: new Map() };
  for (const name of readdirSync("/proc").filter((one) => /^\d+$/.test(one))) {
    let stat: string;
    let memory: string;
    try {
      stat = readFileSync(`/proc/${name}/stat`, "utf8");
      memory = readFileSync(`/proc/${name}/smaps_rollup`, "utf8");
    } catch {
      // It has just ended.
      continue;
    }
    const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    if (Number(name) !== managerPid && parent !== managerPid) continue;
    const kibOf = (key: string): number =>
      Number(new RegExp(`^${key}:\\s+(\\d+) kB`, "m").exec(memory)?.[1] ?? 0);
    total.rssBytes += kibOf("Rss") * 1024;
    total.each.set(name, kibOf("Rss") * 1024);
    total.pssBytes += kibOf("Pss") * 1024;
  }
  return total;
}

/** How much the processes of the first look have grown. Those started since would count as a cost of the devices. */
function growth(few: Memory, many: Memory): number {
  return [...few.each].reduce((sum, [pid, bytes]) => sum + (many.each.get(pid) ?? bytes) - bytes, 0);
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

const secondsSince = (then: number): string => `${((performance.now() - then) / 1000).toFixed(1)} s`;

describe(`${DEVICES} devices`, { timeout: LIMITS.longTestMs }, () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("on two workers read their own images, outlive worker and manager, and can be detached", async () => {
    const said: string[] = [];
    for (const number of range(0, DEVICES)) copyFileSync(image, pathOf(number));
    const client = await reach();
    const { pid: managerPid } = await client.request("hello", {});
    const devices = new Map<number, DeviceStatus>();
    const attach = async (number: number): Promise<void> => {
      const device = await attachOver(client, pathOf(number), {
        // The last one is read all the time, and its reads must be sent again soon. The others would only log that the
        // machine is slow.
        ioTimeoutMs: number === DEVICES - 1 ? 1000 : 30_000,
        hangTimeoutMs: 60_000,
      });
      devices.set(number, device);
    };
    let since = performance.now();
    // Both workers get their share from the start: what a further device costs is not to be what a first one does.
    await attach(0);
    await warm(managerPid);
    await forEach(range(1, FIRST), attach);
    const few = memoryOf(managerPid);
    await forEach(range(FIRST, DEVICES), attach);
    said.push(`attached ${DEVICES} in ${secondsSince(since)}`);
    expect(new Set([...devices.values()].map(({ index }) => index)).size).toBe(DEVICES);
    // Attaches leave garbage, and on a busy machine it is collected later.
    await until("a small cost of each device", () => {
      return growth(few, memoryOf(managerPid)) < MOST_BYTES_PER_DEVICE * (DEVICES - FIRST);
    });
    const many = memoryOf(managerPid);
    const perDevice = growth(few, many) / (DEVICES - FIRST);
    said.push(
      `${megabytes(many.rssBytes)} resident (${megabytes(many.pssBytes)} with shared pages counted once)`,
    );
    said.push(`${Math.round(perDevice / 1000)} KB for each further device`);

    // Each device has the bytes of an image, those far beyond nbds_max too.
    const first = readFileSync(image).subarray(0, 4096);
    for (const { device } of devices.values()) {
      const file = await open(device ?? "", "r");
      const { buffer } = await file.read(Buffer.alloc(4096), 0, 4096, 0);
      await file.close();
      expect(buffer.equals(first)).toBe(true);
    }

    const last = devices.get(DEVICES - 1);
    const reader = await startReader(last?.device ?? "", image, 4);
    const victim = workerOf(await status(last?.device ?? ""));
    const served = (await client.request("status", { target: null })).devices.flatMap(({ links }) =>
      links.filter(({ workerPid }) => workerPid === victim),
    ).length;
    expect(served).toBeGreaterThan(DEVICES / 4);
    const outcomes: DeviceEvent[] = [];
    let lastAt = 0;
    await client.watch(
      (event) => {
        if (event.event === "state" && event.state === "serving") lastAt = performance.now();
        if (event.event === "failover") outcomes.push(event);
      },
      () => {},
    );
    since = performance.now();
    process.kill(victim, "SIGKILL");
    await until("every takeover", () => outcomes.length >= served, LIMITS.testMs);
    said.push(`${served} links of a killed worker moved in ${Math.round(lastAt - since)} ms`);
    const read = outcomes.find(({ device }) => device === last?.device);
    if (read?.event === "failover")
      said.push(`reads of one that was read stood still for ${read.stallMs} ms`);
    expect(outcomes).toHaveLength(served);
    for (const outcome of outcomes) expect(outcome).toMatchObject({ result: "recovered", level: "takeover" });
    client.close();

    // Its successor finds all of them served, and no read waits.
    since = performance.now();
    process.kill(managerPid, "SIGKILL");
    const second = await successorOf(managerPid, LIMITS.testMs);
    said.push(`found all again ${secondsSince(since)} after their manager was killed`);
    const found = await statuses();
    expect(found).toHaveLength(DEVICES);
    for (const { state, counters } of found) {
      expect(state).toBe("serving");
      expect(counters).toMatchObject({ reconnects: 0, failedFailovers: 0 });
    }

    // Every link is dead, and most devices are quiet: each is to be reconnected and proven.
    since = performance.now();
    const [guardian = -1] = guardiansOf(second);
    expect(guardian).toBeGreaterThan(0);
    await killTogether(second, ...allWorkers());
    const third = await successorOf(second, LIMITS.testMs);
    said.push(`the manager after one that died with all workers: there after ${secondsSince(since)}`);
    await untilAsync(
      "every reconnect",
      async () =>
        (await statuses()).every(({ state, counters }) => state === "serving" && counters.reconnects > 0),
      LIMITS.testMs,
    );
    said.push(`all reconnected after ${secondsSince(since)}`);
    expectFlawless(await reader.stop());

    since = performance.now();
    const pids = [third, ...allWorkers()];
    await erofsNbdOk("detach", "--all");
    said.push(`detached all in ${secondsSince(since)}`);
    await allGone(pids);
    process.stderr.write(`${DEVICES} devices: ${said.join("; ")}\n`);
    expect(many.rssBytes).toBeLessThan(MOST_BYTES);
    expect(perDevice).toBeLessThan(MOST_BYTES_PER_DEVICE);
  });
});
