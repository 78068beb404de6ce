/** WorkerPool: workers that hang, or are merely slow. */
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import type { OpenLink } from "../../../../src/supervisor/ports.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { until } from "../../../helpers/until.ts";
import { observer, readOver, stopProcess, takenOver, usePoolRig } from "./pool-rig.ts";

const rig = usePoolRig();

describe("a worker that hangs", () => {
  test("when it is given a link: another serves the link, and the hang watch kills it", async () => {
    const { pool, log } = rig.startPool({ servingDeadlineMs: 200 });
    const warm = await rig.open(pool);
    await until("two workers", () => pool.pids.length === 2);
    const idle = pool.pids.find((pid) => pid !== warm.workerPid) ?? -1;
    stopProcess(idle);
    const heard = observer();
    const link = await rig.open(pool, heard, { spread: false });
    expect(link.workerPid).not.toBe(idle);
    await (await readOver(link)).disconnect();
    const killed = new RegExp(`^warn: worker ${idle} has not answered for [\\d.]+ s: .*; it was killed$`);
    await until("the end of the one that hangs", () => log.some((line) => killed.test(line)));
    await until("its end", () => heard.ends.length === 1);
    expect(heard.losses).toEqual([]);
    await (await readOver(warm)).disconnect();
  });

  test("only between two of the many links that it takes makes progress, and is not killed", async () => {
    const servingDeadlineMs = 1500;
    const { pool, log } = rig.startPool({ size: 1, servingDeadlineMs });
    const warm = await rig.open(pool);
    close(warm.kernelFd);
    const links: OpenLink[] = [];
    const end = performance.now() + 2 * servingDeadlineMs;
    const keepOpening = async (): Promise<void> => {
      do links.push(await rig.open(pool));
      while (performance.now() < end);
    };
    // It always has links to take.
    const opening = Promise.all(Array.from({ length: 20 }, keepOpening));
    while (performance.now() < end) {
      const before = links.length;
      process.kill(warm.workerPid, "SIGSTOP");
      await sleep(100);
      process.kill(warm.workerPid, "SIGCONT");
      // On a busy machine it takes a while until the worker runs.
      await until("a link is taken", () => links.length > before);
    }
    await opening;
    expect(log.filter((line) => line.startsWith("warn"))).toEqual([]);
    // On a busy machine it may be silent for so long that a spare worker is started. It keeps what it has all the same.
    const mine = links.filter(({ workerPid }) => workerPid === warm.workerPid);
    expect(pool.pids).toContain(warm.workerPid);
    for (const link of links) {
      if (link === mine.at(-1)) await (await readOver(link)).disconnect();
      else close(link.kernelFd);
    }
  });

  test("while more links come than its channel holds loses all of them to the next", async () => {
    const { pool } = rig.startPool({ size: 1, servingDeadlineMs: 600 });
    const warm = await rig.open(pool);
    close(warm.kernelFd);
    stopProcess(warm.workerPid);
    const links = await Promise.all(Array.from({ length: 400 }, () => rig.open(pool)));
    expect(links.map(({ workerPid }) => workerPid)).not.toContain(warm.workerPid);
    const last = links.at(-1);
    if (last !== undefined) await (await readOver(last)).disconnect();
    for (const link of links.slice(0, -1)) close(link.kernelFd);
  });

  test("with waiting requests is found and killed, and its link is taken over", async () => {
    const { pool, log } = rig.startPool();
    const heard = observer();
    const link = await rig.open(pool, heard, { hangTimeoutMs: 1500 });
    const client = await readOver(link);
    const hung = link.workerPid;
    stopProcess(hung);
    const waiting = client.read(0, 512);
    rig.inFlight = () => client.inFlight;
    expect(await takenOver(link, heard)).toEqual({ safe: true, unanswered: 1 });
    expect(await waiting).toHaveLength(512);
    expect(link.workerPid).not.toBe(hung);
    expect(
      log.some((line) => line.startsWith(`warn: worker ${hung}`) && line.endsWith("it was killed")),
    ).toBe(true);
    await client.disconnect();
  });

  test("does not keep the counters of its link from being read", async () => {
    const { pool } = rig.startPool({ size: 1 });
    const link = await rig.open(pool);
    const client = await readOver(link);
    await until("the read is counted", () => link.counters.requests === 1);
    stopProcess(link.workerPid);
    expect(link.counters).toEqual({ requests: 1, readBytes: 1000, readErrors: 0 });
    process.kill(link.workerPid, "SIGKILL");
    client.destroy();
  });
});
