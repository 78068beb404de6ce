/** silent-workers.ts with real workers: one in a long read is waited for, one that hangs is killed. */
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { LeftoverDevice } from "../../../../src/manager/adoption/leftover-device.ts";
import { SilentWorkers } from "../../../../src/manager/adoption/silent-workers.ts";
import { holdsLinks, reattachWorkers, workerSocketName } from "../../../../src/pool/reattach.ts";
import type { WorkerPool } from "../../../../src/pool/worker-pool.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { SOCK_SEQPACKET } from "../../../../src/sys/libc/sockets.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../../../../src/sys/process-identity.ts";
import { listenUnix } from "../../../../src/sys/sockets/listen.ts";
import { makeZombie } from "../../../helpers/processes/zombie.ts";
import { until } from "../../../helpers/until.ts";
import { type HangingImage, HangingRig, type ReadLink } from "../../pool/worker-pool/hanging-rig.ts";
import { adopt, adopted, kept, kernel, leave, store, surroundings } from "./adoption-rig.ts";

let rig: HangingRig;
beforeEach(() => {
  rig = new HangingRig();
});
afterEach(async () => rig.end());

/** A device whose worker is inside a read that hangs, after its manager has gone. */
async function leaveHanging(
  hangTimeoutMs: number,
): Promise<{ slow: HangingImage; link: ReadLink; worker: ProcessIdentity }> {
  const pool = rig.startPool({ size: 1 });
  pool.fill();
  const slow = rig.image("slow");
  const link = await rig.read(pool, slow, { device: "slow", hangTimeoutMs: 60_000 });
  await until("it reads", () => link.reads > 5);
  const worker = identifyProcess(link.link.workerPid) as ProcessIdentity;
  await leave("slow", [worker], { image: slow.image.spec, hangTimeoutMs });
  kernel.devices.set("slow", 3);
  slow.hang();
  await until("a read hangs", () => slow.hungIn.length > 0);
  pool.leave();
  rig.endLater(worker);
  return { slow, link, worker };
}

/** What the next manager does at its start; returns its pool, and what it says. */
async function start(): Promise<{ pool: WorkerPool; notes: string[] }> {
  const { reattached, silent } = await reattachWorkers(rig.workers, rig.journals);
  expect(reattached).toEqual([]);
  const pool = rig.startPool({ size: 1 });
  const adoption = { ...surroundings(), isHeld: (one: ProcessIdentity) => holdsLinks(rig.workers, one) };
  const awaitWorkers = new SilentWorkers({
    workers: rig.workers,
    journals: rig.journals,
    records: store,
    adoptWorker: (worker) => pool.adopt(worker),
    release: (device) => {
      const at = kept.indexOf(device);
      if (at >= 0) kept.splice(at, 1);
      device.leave();
      return at >= 0;
    },
    adoption,
  });
  return { pool, notes: await adopt([], [], silent, { ...adoption, awaitWorkers }) };
}

describe("a worker of a former manager that does not answer", () => {
  test("because it is in a read that may take its time is waited for, and its device keeps its link", async () => {
    const { slow, link, worker } = await leaveHanging(60_000);
    const { notes } = await start();
    expect(notes).toEqual([
      `nbd3 (${slow.image.spec.path}) is served by worker ${worker.pid}, which does not answer yet`,
    ]);
    expect(kept).toMatchObject([{ state: "serving", index: 3 }]);
    expect(kept[0]).toBeInstanceOf(LeftoverDevice);
    // Longer than any fixed deadline of former versions.
    await until("silence", () => link.waitingMs > 6000);
    expect([isAlive(worker), adopted]).toEqual([true, []]);
    slow.goOn();
    await until("the device goes on", () => adopted.length === 1);
    expect(adopted).toMatchObject([{ index: 3, links: [{ device: "slow", workerPid: worker.pid }] }]);
    expect(kept).toEqual([]);
    const { reads } = link;
    await until("it reads again", () => link.reads > reads + 5);
    // Begun once.
    expect(slow.hungIn).toEqual([worker.pid]);
    await link.stop();
    for (const one of adopted[0]?.links ?? []) one.leave();
    adopted.pop();
  });

  test("for the hang timeout of its device is killed, and the device begins with a failover", async () => {
    const { worker } = await leaveHanging(1500);
    await start();
    expect(kept).toHaveLength(1);
    await until("the device is taken over", () => adopted.length === 1);
    expect(adopted).toMatchObject([{ index: 3, links: [] }]);
    expect([isAlive(worker), holdsLinks(rig.workers, worker), kept]).toEqual([false, false, []]);
  });
});

test("a worker that is a zombie is not gone while a thread of it keeps its sockets", async () => {
  const { pid, end } = await makeZombie();
  const worker = identifyProcess(pid) as ProcessIdentity;
  // In the place of the thread.
  const fd = listenUnix(join(rig.workers, workerSocketName(worker)), SOCK_SEQPACKET);
  expect(isAlive(worker)).toBe(false);
  expect((await reattachWorkers(rig.workers, rig.journals)).silent).toEqual([worker]);
  expect(holdsLinks(rig.workers, worker)).toBe(true);
  close(fd);
  expect(holdsLinks(rig.workers, worker)).toBe(false);
  expect((await reattachWorkers(rig.workers, rig.journals)).silent).toEqual([]);
  await end();
});
