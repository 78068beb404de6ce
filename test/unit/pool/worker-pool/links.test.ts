/** WorkerPool: links are spread over workers, serve, and end; a pool that stops lets them finish. */
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openImage } from "../../../../src/source/open-image.ts";
import type { OpenLink } from "../../../../src/supervisor/ports.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { SHUT_RDWR, shutdown } from "../../../../src/sys/libc/sockets.ts";
import { isAlive } from "../../../../src/sys/process-identity.ts";
import { MiniNbdClient } from "../../../helpers/nbd/mini-nbd-client.ts";
import { workersOf } from "../../../helpers/processes/built-worker.ts";
import { until } from "../../../helpers/until.ts";
import { content, NEVER, observer, readOver, takenOver, usePoolRig } from "./pool-rig.ts";

const rig = usePoolRig();

test("a link without a worker gives its journal to the one that replaces it, where no other can be made", async () => {
  const { pool } = rig.startPool();
  const heard = observer();
  const former = await rig.open(pool, heard);
  shutdown(former.kernelFd, SHUT_RDWR);
  process.kill(former.workerPid, "SIGKILL");
  await until("it has no worker", () => heard.losses.length + heard.ends.length > 0);
  // As with a full file system: no file can be made here any more.
  rmSync(rig.journals, { recursive: true });
  await expect(rig.open(pool)).rejects.toThrow("ENOENT");
  const next = await rig.open(pool, observer(), { former });
  await (await readOver(next)).disconnect();
  close(former.kernelFd);
});

describe("a pool that begins with one worker", () => {
  test("gives it a link, and starts the second when it is filled", async () => {
    const { pool } = rig.startPool({}, false);
    const first = pool.pids;
    expect(first).toHaveLength(1);
    // Waiting for the first worker is no reason to start another beside it.
    const link = await rig.open(pool, observer(), { spread: false });
    expect([pool.pids, link.workerPid]).toEqual([first, first[0]]);
    pool.fill();
    expect(pool.pids).toHaveLength(2);
    close(link.kernelFd);
  });

  test("starts the second at once for links that are spread", async () => {
    const { pool } = rig.startPool({}, false);
    const links = [await rig.open(pool, observer(), { spread: false }), await rig.open(pool)];
    expect(new Set(links.map(({ workerPid }) => workerPid)).size).toBe(2);
    for (const { kernelFd } of links) close(kernelFd);
  });

  test("starts another one when that one dies", async () => {
    const { pool } = rig.startPool({}, false);
    const heard = observer();
    const link = await rig.open(pool, heard, { spread: false });
    const killed = link.workerPid;
    process.kill(killed, "SIGKILL");
    expect(await takenOver(link, heard)).toMatchObject({ safe: true });
    expect(link.workerPid).not.toBe(killed);
    expect(pool.pids).toHaveLength(1);
    close(link.kernelFd);
  });
});

describe("links of a pool", () => {
  test("are spread over two workers, serve, count their reads, and end once with a reason", async () => {
    const { pool, log } = rig.startPool();
    expect(pool.pids).toHaveLength(2);
    expect(log).toEqual(pool.pids.map((pid) => `info: Started worker ${pid}`));
    const observers = [observer(), observer(), observer(), observer()];
    const links: OpenLink[] = [];
    for (const one of observers) links.push(await rig.open(pool, one));
    expect(links.map(({ workerPid }) => workerPid).sort()).toEqual([...pool.pids, ...pool.pids].sort());
    expect(new Set(links.map(({ number }) => number)).size).toBe(4);

    const clients = await Promise.all(links.map(readOver));
    await until("first requests", () => observers.every(({ heard }) => heard[0] === "first request"));
    await until("all is counted", () => links.every(({ counters }) => counters.requests === 1));
    expect(links.map(({ counters }) => counters)).toEqual(
      Array(4).fill({ requests: 1, readBytes: 1000, readErrors: 0 }),
    );

    await clients[0]?.disconnect();
    // The worker holds a duplicate of this end, so that closing ours would end nothing.
    shutdown(links[1]?.kernelFd ?? -1, SHUT_RDWR);
    links[2]?.close();
    links[2]?.close();
    await until("three ends", () => observers.slice(0, 3).every(({ ends }) => ends.length === 1));
    expect(observers.map(({ ends }) => ends)).toEqual([
      [{ kind: "disconnect" }],
      [{ kind: "end-of-file" }],
      [{ kind: "closed" }],
      [],
    ]);
    expect(links[2]?.counters).toEqual({ requests: 1, readBytes: 1000, readErrors: 0 });
    expect(observers[2]?.heard.at(-1)).toBe(
      `ended: worker ${links[2]?.workerPid} ended the link: it was given up`,
    );
    await clients[2]?.closed;
    await clients[3]?.disconnect();
    await until("the last end", () => observers[3]?.ends.length === 1);
    expect(links[3]?.counters.requests).toBe(1);
    for (const link of links) link.close();
    expect(readdirSync(rig.journals)).toEqual([]);
  });

  test("report read errors with their reason", async () => {
    const { pool } = rig.startPool({ size: 1 });
    const heard = observer();
    const path = join(rig.directory, "shrinking");
    writeFileSync(path, content);
    const shrinking = openImage(path);
    const link = await rig.open(pool, heard, {
      image: { spec: shrinking.spec, fd: shrinking.fd, blockSizeBytes: 512 },
    });
    close(shrinking.fd);
    // Not synchronously: it waits until worker and pool have let go of their lease.
    await writeFile(path, "short");
    const client = await MiniNbdClient.open({ fd: link.kernelFd });
    expect((await client.request(0, 4096, 512)).errno).toBe(5);
    await until("the reason", () => heard.heard.some((line) => line.startsWith("1 × ")));
    expect(heard.heard.at(-1)).toContain("truncated from 10000 to 5 bytes");
    await client.disconnect();
  });
});

describe("a pool that stops", () => {
  test("lets idle workers exit at once, and a busy one when its last link has ended", async () => {
    const { pool } = rig.startPool();
    const heard = observer();
    const link = await rig.open(pool, heard);
    const client = await readOver(link);
    const workers = workersOf(pool);
    pool.stop();
    await until("one has left", () => workers.filter(isAlive).length === 1);
    expect(workers.find(isAlive)?.pid).toBe(link.workerPid);
    expect(await client.read(0, 512)).toHaveLength(512);
    await client.disconnect();
    await until("both have left", () => !workers.some(isAlive));
    await until("the link to have ended", () => heard.ends.length > 0);
    expect(heard.ends).toEqual([{ kind: "disconnect" }]);
    await until("the pool to know", () => pool.pids.length === 0);
  });

  test("rejects a link that waits for a worker, and starts no worker any more", async () => {
    const { pool } = rig.startPool({ size: 1, workerPath: join(rig.directory, "nothing") });
    const opened = pool.openLink({ ...rig.request(), spread: false }, observer(), NEVER);
    pool.stop();
    await expect(opened).rejects.toMatchObject({ code: "ERR_WORKER" });
    await until("its end", () => pool.pids.length === 0);
    pool.fill();
    expect(pool.pids).toEqual([]);
  });
});
