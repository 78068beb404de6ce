/** WorkerPool: the workers are replaced by fresh ones while links are served. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { OpenLink } from "../../../../src/supervisor/ports.ts";
import { WORKER_PATH } from "../../../helpers/processes/built-worker.ts";
import { until } from "../../../helpers/until.ts";
import { content, observer, readOver, usePoolRig } from "./pool-rig.ts";

const rig = usePoolRig();

describe("renewing a pool", () => {
  test("replaces every worker; links go on over the same sockets and report the move", async () => {
    const { pool } = rig.startPool();
    const observers = [observer(), observer(), observer()];
    const links: OpenLink[] = [];
    for (const one of observers) links.push(await rig.open(pool, one));
    const clients = await Promise.all(links.map(readOver));
    const before = pool.pids;
    const reads = clients.map((client) =>
      Promise.all(Array.from({ length: 300 }, (_, at) => client.read(at, 100 + at))),
    );
    const renewal = await pool.renew();
    expect(renewal).toMatchObject({ workers: 2, links: 3 });
    expect(pool.pids).toHaveLength(2);
    expect(pool.pids.some((pid) => before.includes(pid))).toBe(false);
    for (const [at, link] of links.entries()) {
      expect(pool.pids).toContain(link.workerPid);
      expect(observers[at]?.heard.filter((line) => line.startsWith("moved"))).toEqual([
        `moved to ${link.workerPid}`,
      ]);
    }
    for (const got of reads)
      for (const [at, data] of (await got).entries())
        expect(data.equals(content.subarray(at, at + 100 + at))).toBe(true);
    for (const client of clients) await client.disconnect();
    await until("all ends", () => observers.every(({ ends }) => ends.length === 1));
    for (const { losses } of observers) expect(losses).toEqual([]);
    expect(links.map(({ counters }) => counters.requests)).toEqual([301, 301, 301]);
  });

  test("changes nothing if the fresh workers do not start", async () => {
    const program = join(rig.directory, "worker-that-breaks.mjs");
    writeFileSync(program, `await import(${JSON.stringify(WORKER_PATH)});\n`);
    const { pool } = rig.startPool({ workerPath: program });
    const heard = observer();
    const link = await rig.open(pool, heard);
    const client = await readOver(link);
    const before = pool.pids;
    writeFileSync(program, "process.exit(7);\n");
    await expect(pool.renew()).rejects.toMatchObject({
      code: "ERR_WORKER",
      message: expect.stringMatching(/^cannot replace the workers: worker \d+ exited with 7$/),
    });
    expect(pool.pids).toEqual(before);
    expect(await client.read(0, 512)).toHaveLength(512);
    expect(heard.heard).toEqual(["first request"]);
    await client.disconnect();
  });
});
