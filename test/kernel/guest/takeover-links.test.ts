/**
 * Takeovers where the kernel's count of reads cannot be used, or not yet: several links share it, an administrator has
 * disabled it, or a reconnect has just left reads in it that no socket carries. And links of devices that share
 * workers.
 *
 * A takeover that is not safe is given up for a reconnect, with the reason; there is never a wrong byte or an error.
 */
import { writeFileSync } from "node:fs";
import { describe, expect, onTestFinished, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  afterFailovers,
  attach,
  cleanUpAfterFailure,
  cutLinks,
  detachAll,
  expectFlawless,
  killUnderLoad,
  readsInFlight,
  startReader,
  status,
  statusWhen,
  until,
  watchEvents,
  workerOf,
  workersOf,
} from "./product.ts";
import {
  expectTakeovers,
  type FailoverEvent,
  kernelWords,
  outcomes,
  PATIENT,
  useImage,
  warm,
} from "./takeover-rig.ts";

const { image } = useImage("takeover-links", 16 << 20);

/** A takeover, or a reconnect that says why it had to be one. */
function expectTakenOverOrExplained({
  result,
  level,
  cause,
}: Pick<FailoverEvent, "result" | "level" | "cause">): void {
  expect(result).toBe("recovered");
  if (level === "reconnect") expect(cause).toContain("; taking over was not safe: ");
}

describe("a device with two links", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  const ownWorkers = (device: DeviceStatus): number[] => device.links.map(({ workerPid }) => workerPid);

  test("is served on when the worker of either link dies: two takeovers, the other link untouched", async () => {
    const device = await attach(...PATIENT, "--connections", "2", image);
    expect(new Set(ownWorkers(device)).size).toBe(2);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    const [first = -1, second = -1] = ownWorkers(device);
    await warm(device.managerPid);
    await killUnderLoad(device, [first]);
    const between = await afterFailovers(device.device ?? "", 1);
    expectTakeovers(between, 1);
    expect(ownWorkers(between)).toEqual([second, second]);
    await warm(device.managerPid);
    await killUnderLoad(device, [second]);
    const after = await afterFailovers(device.device ?? "", 2);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expectTakeovers(after, 2);
    await detachAll();
  });

  test("has both links taken over when both workers die at once", async () => {
    const device = await attach(...PATIENT, "--connections", "2", image);
    const watcher = await watchEvents();
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    await killUnderLoad(device, ownWorkers(device));
    await statusWhen(
      device.device ?? "",
      "both links up",
      ({ state, links }) =>
        state === "serving" &&
        links.every((link) => link.state === "up" && !ownWorkers(device).includes(link.workerPid)),
    );
    expectFlawless(await reader.stop());
    expect(words()).toEqual([]);
    const after = await status(device.device ?? "");
    // Two deaths that are noticed apart may be two failovers.
    expectTakeovers(after, (await outcomes(watcher, 1)).length);
    await watcher.stop();
    await detachAll();
  });
});

describe("a device whose reads are not counted", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("is taken over where that is safe, and otherwise reconnected with the reason", async () => {
    // A worker that a busy machine does not let run is not to be killed as hanging between two of our kills.
    const device = await attach("--hang-timeout", "60000", image);
    // The switch belongs to the node: it stays as it is when the device is gone.
    const iostats = `/sys/block/nbd${device.index}/queue/iostats`;
    onTestFinished(() => writeFileSync(iostats, "1\n"));
    writeFileSync(iostats, "0\n");
    const watcher = await watchEvents();
    const reader = await startReader(device.device ?? "", image);
    const kills = 5;
    let now = device;
    for (let kill = 1; kill <= kills; kill += 1) {
      await warm(device.managerPid);
      const { requests } = (await status(device.device ?? "")).counters;
      await statusWhen(device.device ?? "", "reads", ({ counters }) => counters.requests > requests);
      // Eight reads are begun at any time; sysfs cannot show them here, the outcome does.
      process.kill(workerOf(now), "SIGKILL");
      now = await afterFailovers(device.device ?? "", kill);
    }
    expectFlawless(await reader.stop());
    const told = await outcomes(watcher, kills);
    expect(told).toHaveLength(kills);
    for (const one of told) expectTakenOverOrExplained(one);
    const reconnects = told.filter(({ level }) => level === "reconnect");
    if (reconnects.length > 0) guard.expectKernelLog(...LINK_DEATH_LINES);
    for (const { cause } of reconnects) expect(cause).toContain("no count of reads in flight");
    expect(now.counters).toMatchObject({
      takeovers: kills - reconnects.length,
      reconnects: reconnects.length,
      failedFailovers: 0,
    });
    const takenOver = told.filter(({ level }) => level === "takeover");
    expect(takenOver.some(({ strandedReads }) => strandedReads > 0)).toBe(true);
    await watcher.stop();
    await detachAll();
  });
});

describe("a worker that dies right after a reconnect", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("is followed by a takeover although the kernel still counts reads of the old socket", async () => {
    const device = await attach("--io-timeout", "5000", "--hang-timeout", "60000", image);
    const watcher = await watchEvents();
    const reader = await startReader(device.device ?? "", image);
    await warm(device.managerPid);
    const restored = watcher.next(
      "the fresh link",
      (event) => event.event === "state" && event.state === "serving",
    );
    // Reads are on the wire when the link is cut; those come back only with the timer.
    process.kill(workerOf(device), "SIGSTOP");
    await until("eight reads on the wire", () => readsInFlight(device.index ?? -1) >= reader.depth);
    await cutLinks(device.index ?? -1);
    process.kill(workerOf(device), "SIGCONT");
    await restored;
    const fresh = await status(device.device ?? "");
    expect(fresh.links).toMatchObject([{ state: "up", generation: 2 }]);
    process.kill(workerOf(fresh), "SIGKILL");
    const after = await afterFailovers(device.device ?? "", 2);
    expectFlawless(await reader.stop());
    const [cut, killed] = await outcomes(watcher, 2);
    expect(cut).toMatchObject({ result: "recovered", level: "reconnect" });
    if (killed !== undefined) expectTakenOverOrExplained(killed);
    expect(after.counters.takeovers + after.counters.reconnects).toBe(2);
    expect(after.counters.failedFailovers).toBe(0);
    await watcher.stop();
    await detachAll();
  });
});

describe("devices that share their workers", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("are all taken over when both die together", async () => {
    const devices = [];
    for (let at = 0; at < 3; at += 1) devices.push(await attach(...PATIENT, image));
    const readers = [];
    for (const { device } of devices) readers.push(await startReader(device ?? "", image, 4));
    const words = kernelWords(guard);
    const [first] = devices;
    if (first === undefined) throw new Error("nothing was attached");
    await warm(first.managerPid);
    await killUnderLoad(first, workersOf(first.managerPid));
    for (const { device } of devices) expectTakeovers(await afterFailovers(device ?? "", 1), 1);
    for (const reader of readers) expectFlawless(await reader.stop());
    expect(words()).toEqual([]);
    await detachAll();
  });
});
