/** WorkerPool: links of which one waits for the other are served by different workers, also after deaths and renewals. */
import { describe, expect, test } from "vitest";
import type { OpenLink } from "../../../../src/supervisor/ports.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { until } from "../../../helpers/until.ts";
import { NEVER, type Observed, observer, usePoolRig } from "./pool-rig.ts";

const rig = usePoolRig();

/** Of devices 0, 1 on 0, 2 on 1, and so on. */
async function openStack(
  pool: Parameters<typeof rig.open>[0],
  below: readonly (readonly number[])[],
): Promise<{ links: OpenLink[]; heard: Observed[] }> {
  const heard = below.map(() => observer());
  const links: OpenLink[] = [];
  for (const [index, lower] of below.entries()) {
    const changes = { spread: false, device: `device ${index}`, deviceIndex: () => index, below: lower };
    links.push(await rig.open(pool, heard[index], changes));
  }
  return { links, heard };
}

const workersOf = (links: readonly OpenLink[]): number =>
  new Set(links.map(({ workerPid }) => workerPid)).size;

describe("links of stacked devices", () => {
  test("get a worker for each level, more than there are else", async () => {
    const { pool } = rig.startPool();
    const { links } = await openStack(pool, [[], [0], [1], [2]]);
    expect(workersOf(links)).toBe(4);
    for (const { kernelFd } of links) close(kernelFd);
  });

  test("stay apart when a pool has one worker yet", async () => {
    const { pool } = rig.startPool({}, false);
    const { links } = await openStack(pool, [[], [0]]);
    expect(workersOf(links)).toBe(2);
    for (const { kernelFd } of links) close(kernelFd);
  });

  test("stay apart when all their workers die at once", async () => {
    const { pool } = rig.startPool();
    const { links, heard } = await openStack(pool, [[], [0], [1]]);
    for (const { workerPid } of links) process.kill(workerPid, "SIGKILL");
    await until("the deaths", () => heard.every(({ losses }) => losses.length > 0));
    // The first two workers that are ready get them in any order.
    await Promise.all(links.toReversed().map((link) => link.takeOver(NEVER, () => {})));
    expect(workersOf(links)).toBe(3);
    for (const { kernelFd } of links) close(kernelFd);
  });

  test("stay apart in a renewal, where the upper ones are many", async () => {
    const { pool } = rig.startPool();
    const { links } = await openStack(pool, [[], [0], [0], [0], [0]]);
    const before = pool.pids;
    expect(await pool.renew()).toMatchObject({ links: 5 });
    expect(links.every(({ workerPid }) => !before.includes(workerPid))).toBe(true);
    const [lower, ...upper] = links;
    expect(upper.map(({ workerPid }) => workerPid)).not.toContain(lower?.workerPid);
    for (const { kernelFd } of links) close(kernelFd);
  });
});
