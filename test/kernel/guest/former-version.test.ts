/**
 * An upgrade from a former version, and back to it, while devices are read: no read fails, no byte is wrong, and no
 * socket is replaced. Records, journals, messages between manager and workers, and requests of commands are those of
 * that version.
 *
 * EROFS_NBD_FORMER is the dist directory of its build (test/kernel/former.mjs). Runs inside a guest (or with --host).
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  allGone,
  allWorkers,
  CLI,
  cleanUpAfterFailure,
  erofsNbdOk,
  expectFlawless,
  guardiansOf,
  killTogether,
  run,
  startReader,
  statuses,
  statusWhen,
  until,
} from "./product.ts";
import { useImage } from "./takeover-rig.ts";

const FORMER = process.env["EROFS_NBD_FORMER"] ?? "";
const { image } = useImage("former", 4 << 20);

/** A command of the former version. */
async function former(...words: string[]): Promise<string> {
  const result = await run(process.execPath, [`${FORMER}/src/cli/main.cjs`, ...words]);
  expect(result, `${words.join(" ")}: ${result.stderr}`).toMatchObject({ code: 0 });
  return result.stdout;
}
const current = (...words: string[]): Promise<string> => erofsNbdOk(...words);

const directoryOf = (cli: string): string => cli.replace(/\/src\/cli\/main\.cjs$/, "/");

describe.skipIf(FORMER === "")("a former version", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("is upgraded under load, and the upgrade is undone, without a read that fails", async () => {
    const one = JSON.parse(await former("attach", "--json", image)) as DeviceStatus;
    const two = JSON.parse(await former("attach", "--json", "--connections", "2", image)) as DeviceStatus;
    const readers = [
      await startReader(one.device ?? "", image, 4),
      await startReader(one.device ?? "", image, 2, "4096-1048576"),
      await startReader(two.device ?? "", image, 4, "4096-262144"),
    ];
    for (const [upgrade, directory] of [
      [current, directoryOf(CLI)],
      [former, `${FORMER}/`],
      [current, directoryOf(CLI)],
    ] as const) {
      const before = allWorkers();
      expect(await upgrade("upgrade")).toMatch(/^replaced manager and 2 workers/);
      const devices = await statuses();
      expect(devices.map(({ state }) => state)).toEqual(["serving", "serving"]);
      for (const { counters } of devices) {
        expect(counters).toMatchObject({ reconnects: 0, failedFailovers: 0, readErrors: 0 });
        expect(counters.handovers).toBeGreaterThan(0);
      }
      expect(readFileSync(`/proc/${devices[0]?.managerPid}/cmdline`, "utf8")).toContain(directory);
      expect(allWorkers().filter((pid) => before.includes(pid))).toEqual([]);
    }
    for (const reader of readers) expectFlawless(await reader.stop());
    await current("detach", "--all");
  });

  test("that was killed is continued by this one: its workers' links, or its records if they died, too", async () => {
    for (const withWorkers of [false, true]) {
      const device = JSON.parse(await former("attach", "--json", image)) as DeviceStatus;
      const node = device.device ?? "";
      await until("both workers", () => allWorkers().length === 2);
      const reader = await startReader(node, image, 4);
      const workers = allWorkers();
      const { managerPid } = device;
      await killTogether(managerPid, ...guardiansOf(managerPid), ...(withWorkers ? workers : []));
      await current("status");
      const after = await statusWhen(
        node,
        "service",
        ({ state, counters }) => state === "serving" && (!withWorkers || counters.reconnects > 0),
      );
      expect(after).toMatchObject({
        identifier: device.identifier,
        counters: { reconnects: withWorkers ? 1 : 0, failedFailovers: 0 },
      });
      expectFlawless(await reader.stop());
      await current("detach", "--all");
      await allGone(workers);
    }
  });

  test("continues what this one has left", async () => {
    const device = JSON.parse(await current("attach", "--json", image)) as DeviceStatus;
    const node = device.device ?? "";
    await until("both workers", () => allWorkers().length === 2);
    const reader = await startReader(node, image, 4);
    await killTogether(device.managerPid, ...guardiansOf(device.managerPid), ...allWorkers());
    await former("status");
    const after = await statusWhen(node, "service", ({ counters }) => counters.reconnects > 0);
    expect(after).toMatchObject({ identifier: device.identifier, counters: { failedFailovers: 0 } });
    expectFlawless(await reader.stop());
    await former("detach", "--all");
  });
});
