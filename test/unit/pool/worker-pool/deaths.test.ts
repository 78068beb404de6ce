/** WorkerPool: workers that are killed, and the links that they leave to the others. */
import { readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { OpenLink } from "../../../../src/supervisor/ports.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { isAlive } from "../../../../src/sys/process-identity.ts";
import { MiniNbdClient } from "../../../helpers/nbd/mini-nbd-client.ts";
import { workersOf } from "../../../helpers/processes/built-worker.ts";
import { until } from "../../../helpers/until.ts";
import { content, NEVER, observer, readOver, stopProcess, takenOver, usePoolRig } from "./pool-rig.ts";

const rig = usePoolRig();

describe("a killed worker", () => {
  test("leaves its link to another, over the same socket, and the other links are served on", async () => {
    const { pool, log } = rig.startPool();
    const [first, second] = [observer(), observer()];
    const one = await rig.open(pool, first);
    const two = await rig.open(pool, second);
    expect(one.workerPid).not.toBe(two.workerPid);
    const client = await readOver(one);
    const killed = one.workerPid;
    stopProcess(killed);
    const waiting = client.read(0, 512);
    rig.inFlight = () => client.inFlight;
    process.kill(killed, "SIGKILL");
    expect(await takenOver(one, first)).toEqual({ safe: true, unanswered: 1 });
    expect(one.workerPid).toBe(two.workerPid);
    expect(await waiting).toEqual(Buffer.from(content.subarray(0, 512)));
    expect(await client.read(1, 512)).toEqual(Buffer.from(content.subarray(1, 513)));
    await until("all is counted", () => one.counters.requests === 3);
    expect(one.counters).toEqual({ requests: 3, readBytes: 2024, readErrors: 0 });
    expect(first.heard).toEqual([
      "first request",
      `orphaned: worker ${killed} was killed by SIGKILL`,
      "first request",
    ]);
    expect(log).toContain(`warn: worker ${killed} was killed by SIGKILL`);
    const other = await readOver(two);
    await until("a successor", () => pool.pids.length === 2);
    expect(pool.pids).not.toContain(killed);
    for (const each of [client, other]) await each.disconnect();
    await until("both ends", () => first.ends.length + second.ends.length === 2);
    expect(second.losses).toEqual([]);
  });

  test("is replaced when all were killed: a link that is opened meanwhile waits for a new one", async () => {
    const { pool } = rig.startPool();
    const heard = observer();
    const first = await rig.open(pool, heard);
    const dead = pool.pids;
    for (const pid of dead) process.kill(pid, "SIGKILL");
    const link = await rig.open(pool);
    expect(dead).not.toContain(link.workerPid);
    await (await readOver(link)).disconnect();
    expect(await takenOver(first, heard)).toEqual({ safe: true, unanswered: 0 });
    expect(dead).not.toContain(first.workerPid);
    await (await readOver(first)).disconnect();
  });

  test("gets no link, even if its exit has not been reported yet", async () => {
    const { pool } = rig.startPool();
    close((await rig.open(pool)).kernelFd);
    const workers = workersOf(pool);
    for (const { pid } of workers) process.kill(pid, "SIGKILL");
    // Without giving the event loop a turn: it must not hear of the exits before the link is asked for.
    const pause = new Int32Array(new SharedArrayBuffer(4));
    while (workers.some(isAlive)) Atomics.wait(pause, 0, 0, 1);
    const link = await rig.open(pool, observer(), { spread: false });
    expect(workers.map(({ pid }) => pid)).not.toContain(link.workerPid);
    await (await readOver(link)).disconnect();
  });

  test("may be followed by more: the link is orphaned and taken over each time", async () => {
    const { pool } = rig.startPool();
    const heard = observer();
    const link = await rig.open(pool, heard);
    const client = await readOver(link);
    for (let death = 1; death <= 4; death += 1) {
      process.kill(link.workerPid, "SIGKILL");
      expect(await takenOver(link, heard, death)).toMatchObject({ safe: true });
      expect(await client.read(death, 512)).toEqual(Buffer.from(content.subarray(death, death + 512)));
    }
    await until("all is counted", () => link.counters.requests === 5);
    expect(heard.losses).toHaveLength(4);
    await client.disconnect();
    await until("its end", () => heard.ends.length === 1);
  });

  test("leaves a takeover that can be aborted, and begun again", async () => {
    const { pool } = rig.startPool({ size: 1 });
    const heard = observer();
    const link = await rig.open(pool, heard);
    const [pid] = pool.pids as [number];
    process.kill(pid, "SIGKILL");
    await until("the death", () => heard.losses.length > 0);
    const stop = new AbortController();
    const taking = link.takeOver(stop.signal, () => {});
    stop.abort();
    await expect(taking).rejects.toThrow();
    expect(await link.takeOver(NEVER, () => {})).toMatchObject({ safe: true });
    await (await readOver(link)).disconnect();
  });

  test("reports the links that have waiting reads first", async () => {
    const { pool } = rig.startPool({ size: 1 });
    const order: number[] = [];
    const links: OpenLink[] = [];
    for (let at = 0; at < 5; at += 1)
      links.push(await rig.open(pool, { ...observer(), orphaned: () => order.push(at) }));
    const waiting = links[3] as OpenLink;
    const client = await MiniNbdClient.open({ fd: waiting.kernelFd });
    stopProcess(waiting.workerPid);
    const read = client.read(0, 1000);
    await until("the request", () => !waiting.isQuiet);
    rig.inFlight = () => 1;
    process.kill(waiting.workerPid, "SIGKILL");
    await until("all deaths", () => order.length === links.length);
    expect(order).toEqual([3, 0, 1, 2, 4]);
    expect(await waiting.takeOver(NEVER, () => {})).toEqual({ safe: true, unanswered: 1 });
    expect(await read).toEqual(Buffer.from(content.subarray(0, 1000)));
    await client.disconnect();
    for (const link of links) if (link !== waiting) close(link.kernelFd);
  });

  test("leaves nothing of a link that is closed before its takeover: neither socket nor journal", async () => {
    const { pool } = rig.startPool({ size: 1 });
    const heard = observer();
    const link = await rig.open(pool, heard);
    const client = await readOver(link);
    await until("the read is counted", () => link.counters.requests === 1);
    process.kill(link.workerPid, "SIGKILL");
    await until("the death", () => heard.losses.length > 0);
    link.close();
    await client.closed;
    expect(readdirSync(rig.journals)).toEqual([]);
    expect(link.counters.requests).toBe(1);
    expect(heard.ends).toEqual([]);
  });
});
