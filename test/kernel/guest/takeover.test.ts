/**
 * A worker dies or hangs and another one continues with the same socket, on a real kernel: reads wait, none is lost or
 * answered twice, and the kernel logs nothing about it.
 *
 * Every test keeps eight reads going and compares every byte; every kill comes with reads on the wire, every failover
 * is counted, and each must be a takeover.
 */
import { describe, expect, test } from "vitest";
import { LIMITS } from "../../limits.mjs";
import { guarded } from "./leftovers.ts";
import {
  afterFailovers,
  allGone,
  attach,
  bothWorkersOf,
  cleanUpAfterFailure,
  detachAll,
  expectFlawless,
  killUnderLoad,
  readsInFlight,
  startReader,
  status,
  until,
  watchEvents,
  workerOf,
  workersOf,
} from "./product.ts";
import { many } from "./soak.ts";
import {
  expectTakeovers,
  HANGABLE,
  journalFiles,
  kernelWords,
  killAtRandom,
  outcomes,
  PATIENT,
  useImage,
  warm,
  workerSockets,
} from "./takeover-rig.ts";

const KILLS = many(8);
const { image } = useImage("takeover", 24 << 20);

describe("workers killed one after the other, at random moments", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  async function killMany(
    blocks: number | `${number}-${number}`,
    order: "random" | "sequential",
  ): Promise<void> {
    const device = await attach(...PATIENT, image);
    const watcher = await watchEvents();
    const reader = await startReader(device.device ?? "", image, 8, blocks, order);
    const words = kernelWords(guard);
    const { victims, after } = await killAtRandom(device, KILLS);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expectTakeovers(after, KILLS);
    const told = await outcomes(watcher, KILLS);
    expect(told.map(({ result, level, cause }) => ({ result, level, cause }))).toEqual(
      victims.map((pid) => ({
        result: "recovered",
        level: "takeover",
        cause: `worker ${pid} was killed by SIGKILL`,
      })),
    );
    await watcher.stop();
    await detachAll();
  }

  test(
    "under random reads of 4 KiB: as many takeovers, and nothing else",
    () => killMany(4096, "random"),
    LIMITS.longTestMs,
  );

  test(
    "under sequential reads of 128 KiB to 1 MiB: as many takeovers, and nothing else",
    () => killMany(`${128 << 10}-${1 << 20}`, "sequential"),
    LIMITS.longTestMs,
  );
});

describe("a takeover", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  test("with all workers dead at once waits for a fresh one, and goes on over the same socket", async () => {
    const device = await attach(...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    const victims = await bothWorkersOf(device.managerPid);
    expect(victims).toHaveLength(2);
    const onTheWire = await killUnderLoad(device, victims);
    const after = await afterFailovers(device.device ?? "", 1);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expectTakeovers(after, 1);
    expect(after.lastFailover?.strandedReads).toBe(onTheWire);
    expect(victims).not.toContain(workerOf(after));
    await detachAll();
  });

  test("of a device that is not read costs nothing, and the next read finds its data", async () => {
    const device = await attach(...PATIENT, image);
    const words = kernelWords(guard);
    process.kill(workerOf(device), "SIGKILL");
    const after = await afterFailovers(device.device ?? "", 1);
    expectTakeovers(after, 1);
    expect(after.lastFailover).toMatchObject({ strandedReads: 0 });
    const reader = await startReader(device.device ?? "", image);
    await until("reads", () => readsInFlight(device.index ?? -1) > 0);
    expectFlawless(await reader.stop());
    expect(words()).toEqual([]);
    await detachAll();
  });

  test("leaves no journal behind its device, and no socket behind its worker", async () => {
    const device = await attach(...PATIENT, image);
    const second = await attach(...PATIENT, image);
    await warm(device.managerPid);
    expect(journalFiles()).toHaveLength(2);
    expect(workerSockets()).toHaveLength(2);
    const sockets = workerSockets();
    process.kill(workerOf(device), "SIGKILL");
    await afterFailovers(device.device ?? "", 1);
    await warm(device.managerPid);
    expect(journalFiles()).toHaveLength(2);
    expect(workerSockets()).toHaveLength(2);
    expect(workerSockets().filter((name) => sockets.includes(name))).toHaveLength(1);
    expect((await status(second.device ?? "")).counters.failedFailovers).toBe(0);
    await detachAll();
    expect(journalFiles()).toEqual([]);
    await until("no worker's socket", () => workerSockets().length === 0);
  });
});

describe("a worker that hangs", () => {
  const guard = guarded();
  cleanUpAfterFailure();

  /** How long nothing had been heard of it when it was ended, by the manager's own clock. */
  function silenceIn(cause: string | undefined): number {
    const words = /^worker \d+ has not answered for ([\d.]+) s: stopped, or .*; it was killed$/.exec(
      cause ?? "",
    );
    expect(words, cause).not.toBeNull();
    return Number(words?.[1]);
  }

  test("under load is noticed within two seconds, killed, and its reads are taken over", async () => {
    const device = await attach(...HANGABLE, image);
    await warm(device.managerPid);
    const reader = await startReader(device.device ?? "", image);
    const words = kernelWords(guard);
    const victim = workerOf(device);
    process.kill(victim, "SIGSTOP");
    await until("eight reads on the wire", () => readsInFlight(device.index ?? -1) >= reader.depth);
    const after = await afterFailovers(device.device ?? "", 1);
    expect(words()).toEqual([]);
    expectFlawless(await reader.stop());
    expectTakeovers(after, 1);
    expect(after.lastFailover?.cause).toContain(`worker ${victim} `);
    expect(after.lastFailover?.strandedReads).toBe(reader.depth);
    expect(silenceIn(after.lastFailover?.cause)).toBeLessThanOrEqual(2);
    // The stall that is told includes the time before it was noticed.
    expect(after.lastFailover?.stallMs).toBeGreaterThanOrEqual(
      silenceIn(after.lastFailover?.cause) * 1000 - 50,
    );
    await allGone([victim]);
    await detachAll();
  });

  test("is noticed while no read waits, too", async () => {
    const device = await attach(...HANGABLE, image);
    await warm(device.managerPid);
    const words = kernelWords(guard);
    const victim = workerOf(device);
    process.kill(victim, "SIGSTOP");
    const after = await afterFailovers(device.device ?? "", 1);
    expectTakeovers(after, 1);
    expect(silenceIn(after.lastFailover?.cause)).toBeLessThanOrEqual(2);
    await allGone([victim]);
    const reader = await startReader(device.device ?? "", image);
    expectFlawless(await reader.stop());
    expect(words()).toEqual([]);
    await detachAll();
  });

  test("and is a spare is replaced, and the device is not affected", async () => {
    const device = await attach(...HANGABLE, image);
    await warm(device.managerPid);
    const reader = await startReader(device.device ?? "", image);
    const spare = workersOf(device.managerPid).find((pid) => pid !== workerOf(device)) ?? -1;
    process.kill(spare, "SIGSTOP");
    await allGone([spare]);
    await warm(device.managerPid);
    expectFlawless(await reader.stop());
    const after = await status(device.device ?? "");
    expect(after.counters).toMatchObject({ takeovers: 0, reconnects: 0, failedFailovers: 0 });
    expect(workerOf(after)).toBe(workerOf(device));
    await detachAll();
  });

  test("for a moment only is not killed", async () => {
    const device = await attach(...PATIENT, image);
    const reader = await startReader(device.device ?? "", image);
    const worker = workerOf(device);
    process.kill(worker, "SIGSTOP");
    await until("eight reads on the wire", () => readsInFlight(device.index ?? -1) >= reader.depth);
    const { requests } = (await status(device.device ?? "")).counters;
    process.kill(worker, "SIGCONT");
    await until("an answer", () => readsInFlight(device.index ?? -1) < reader.depth);
    expectFlawless(await reader.stop());
    const after = await status(device.device ?? "");
    expect(after.counters).toMatchObject({ takeovers: 0, reconnects: 0, failedFailovers: 0 });
    expect(after.counters.requests).toBeGreaterThan(requests);
    expect(workerOf(after)).toBe(worker);
    await detachAll();
  });
});
