/** WorkerPool: workers that outlive their manager, and the pool of the next one. */
import { readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { reattachWorkers } from "../../../../src/pool/reattach.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../../../../src/sys/process-identity.ts";
import { until } from "../../../helpers/until.ts";
import { content, readOver, stopProcess, usePoolRig } from "./pool-rig.ts";

const rig = usePoolRig();

describe("a worker of a former manager", () => {
  test("serves on when the pool of the next manager stops, if a link was left to it", async () => {
    const { pool } = rig.startPool({ size: 1 });
    const link = await rig.open(pool);
    const client = await readOver(link);
    const served = identifyProcess(link.workerPid) as ProcessIdentity;
    pool.leave();
    // Before the next pool has a worker of its own, which is not to be met: so does a manager.
    const { reattached, silent } = await reattachWorkers(rig.workers, rig.journals);
    const { pool: second } = rig.startPool({ size: 1 });
    expect(silent).toEqual([]);
    const links = reattached.flatMap((one) => second.adopt(one));
    expect(links.map(({ workerPid }) => workerPid)).toEqual([served.pid]);
    for (const one of links) one.leave();
    second.stop();
    expect(await client.read(0, 100)).toEqual(Buffer.from(content.subarray(0, 100)));
    await client.disconnect();
    await until("the worker's end", () => !isAlive(served));
  });

  test("is identified by the name of its socket, if it does not answer the next manager", async () => {
    const { pool } = rig.startPool({ size: 1 });
    const link = await rig.open(pool);
    close(link.kernelFd);
    const served = identifyProcess(link.workerPid) as ProcessIdentity;
    pool.leave();
    stopProcess(served.pid);
    expect(await reattachWorkers(rig.workers, rig.journals)).toEqual({ reattached: [], silent: [served] });
    process.kill(served.pid, "SIGKILL");
    await until("its end", () => !isAlive(served));
    // Its other threads hold its socket, too, until they are gone.
    await until("nothing is left of it", async () => {
      const { reattached, silent } = await reattachWorkers(rig.workers, rig.journals);
      return reattached.length + silent.length + readdirSync(rig.workers).length === 0;
    });
  });
});
