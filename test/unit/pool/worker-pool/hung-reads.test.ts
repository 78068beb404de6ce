/** Reads that hang, with real worker processes: which links wait, which workers are killed, and which are asked. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { until } from "../../../helpers/until.ts";
import { HangingRig, type ReadLink } from "./hanging-rig.ts";

let rig: HangingRig;
beforeEach(() => {
  rig = new HangingRig();
});
afterEach(async () => rig.end());

/** Printed to compare two versions. */
const tell = (what: string, links: readonly ReadLink[]): void => {
  const longest = Math.max(
    ...links.map(({ longestReadMs, waitingMs }) => Math.max(longestReadMs, waitingMs)),
  );
  process.stderr.write(`${what}: the longest read of a neighbour took ${Math.round(longest)} ms\n`);
};

describe("an image whose reads hang", () => {
  test("is served alone from then on: each neighbour loses one worker at most", async () => {
    const pool = rig.startPool();
    pool.fill();
    await rig.ready(pool, 2);
    const [bad, good] = [rig.image("bad"), rig.image("good")];
    const suspect = await rig.read(pool, bad);
    const neighbours = [await rig.read(pool, good), await rig.read(pool, good), await rig.read(pool, good)];
    await until("all read", () => [suspect, ...neighbours].every(({ reads }) => reads > 20));
    bad.hang();
    await until("three hangs", () => suspect.losses.length >= 3);
    tell("one of four links hangs", neighbours);
    for (const { losses } of neighbours) expect(losses.length).toBeLessThanOrEqual(1);
    // After the first hang no worker has both.
    const [, ...later] = new Set(bad.hungIn);
    const seen = new Set(neighbours.map(({ link }) => link.workerPid));
    for (const pid of later) expect(seen).not.toContain(pid);
    for (const line of rig.log) expect(line).not.toContain("did not take or give");
    bad.goOn();
    const { reads } = suspect;
    await until("the suspect reads again", () => suspect.reads > reads + 20);
    for (const link of [suspect, ...neighbours]) await link.stop();
  });
});

describe("a read that may take its time", () => {
  const patient = { hangTimeoutMs: 60_000 };

  test("is not disturbed by links that are opened meanwhile, nor do they wait for it", async () => {
    const pool = rig.startPool({ size: 1 });
    pool.fill();
    const [slow, good] = [rig.image("slow"), rig.image("good")];
    const busy = await rig.read(pool, slow, patient);
    await until("it reads", () => busy.reads > 5);
    slow.hang();
    await until("a read hangs", () => slow.hungIn.length > 0);
    const others = [await rig.read(pool, good), await rig.read(pool, good)];
    await until("the others read", () => others.every(({ reads }) => reads > 20));
    tell("opened beside a long read", others);
    expect(busy.waitingMs).toBeGreaterThan(0);
    slow.goOn();
    const { reads } = busy;
    await until("the slow one reads again", () => busy.reads > reads + 20);
    // Begun once, and answered by the worker that began it.
    expect(slow.hungIn).toEqual([busy.link.workerPid]);
    for (const link of [busy, ...others]) {
      expect(link.losses).toEqual([]);
      await link.stop();
    }
    expect(rig.log.filter((line) => !line.startsWith("info"))).toEqual([]);
  });

  test("is not disturbed by an upgrade: its link is handed over once it is answered, the others at once", async () => {
    const pool = rig.startPool();
    pool.fill();
    await rig.ready(pool, 2);
    const [slow, good] = [rig.image("slow"), rig.image("good")];
    const busy = await rig.read(pool, slow, patient);
    const other = await rig.read(pool, good, patient);
    await until("both read", () => busy.reads > 5 && other.reads > 5);
    expect(busy.link.workerPid).not.toBe(other.link.workerPid);
    const [worker] = [busy.link.workerPid];
    slow.hang();
    await until("a read hangs", () => slow.hungIn.length > 0);
    const renewal = pool.renew();
    await until("the other link is handed over", () => other.moves.length === 1);
    // The worker has been silent for longer than any fixed deadline of former versions.
    await until("silence", () => busy.waitingMs > 6000);
    expect(busy.moves).toEqual([]);
    slow.goOn();
    expect(await renewal).toMatchObject({ workers: 2, links: 2 });
    await until("the slow one is handed over", () => busy.moves.length === 1);
    expect(slow.hungIn).toEqual([worker]);
    for (const link of [busy, other]) {
      expect(link.losses).toEqual([]);
      await link.stop();
    }
  });
});
