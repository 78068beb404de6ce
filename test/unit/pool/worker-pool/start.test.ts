/** WorkerPool: workers that do not start, or start slowly. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { MIN_DELAY_MS, RESTART_BUDGET } from "../../../../src/pool/policy/backoff.ts";
import { WORKER_PATH } from "../../../helpers/processes/built-worker.ts";
import { until } from "../../../helpers/until.ts";
import { observer, readOver, usePoolRig } from "./pool-rig.ts";

const rig = usePoolRig();

describe("workers that cannot start", () => {
  test("are the reason of an aborted request for a link", async () => {
    const { pool } = rig.startPool({ size: 1, workerPath: join(rig.directory, "nothing") });
    const stop = new AbortController();
    const opened = pool.openLink(rig.request(), observer(), stop.signal);
    await until("a death", () => pool.pids.length === 0);
    stop.abort();
    await expect(opened).rejects.toMatchObject({
      code: "ERR_WORKER",
      message: expect.stringMatching(/^cannot get a worker that serves: worker \d+ exited with 1$/),
    });
  });

  test("in time are waited for beyond the deadline of an attach", async () => {
    const program = join(rig.directory, "worker-that-is-slow.mjs");
    const pause = "await new Promise((done) => setTimeout(done, 1500));";
    const slow = `${pause}\nawait import(${JSON.stringify(WORKER_PATH)});\n`;
    writeFileSync(program, slow);
    const { pool } = rig.startPool({ size: 1, workerPath: program });
    const deadline = AbortSignal.timeout(100);
    const link = await pool.openLink({ ...rig.request(), spread: false }, observer(), deadline);
    rig.held.push(link);
    expect(deadline.aborted).toBe(true);
    expect(pool.pids).toEqual([link.workerPid]);
    await (await readOver(link)).disconnect();
  });

  test("because they hang are killed, which is the reason that the request gets", async () => {
    const program = join(rig.directory, "worker-that-hangs.mjs");
    writeFileSync(program, "setInterval(() => {}, 100);\n");
    const { pool } = rig.startPool({ size: 1, workerPath: program, startSilenceMs: 600 });
    const opened = pool.openLink({ ...rig.request(), spread: false }, observer(), AbortSignal.timeout(100));
    await expect(opened).rejects.toMatchObject({
      code: "ERR_WORKER",
      message: expect.stringMatching(
        /worker \d+ did not get ready: it has done nothing for 1 s; it was killed$/,
      ),
    });
  });

  test("are started again after growing pauses, which requests for links do not shorten", async () => {
    // Exits are real; the timers between them, and how long a worker has lived, are the test's.
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
    const { pool, log } = rig.startPool({ size: 1, workerPath: join(rig.directory, "nothing") });
    const starts = (): number => log.filter((line) => line.includes("Started")).length;
    const allDead = async (count: number): Promise<void> => {
      await until(`${count} workers are dead`, () => starts() >= count && pool.pids.length === 0);
      expect(starts()).toBe(count);
    };
    const stop = new AbortController();
    await allDead(RESTART_BUDGET + 1);
    // Between half of it and all of it: the next start must not come before, and must come by then.
    for (let round = 0; round < 3; round += 1) {
      const mostMs = MIN_DELAY_MS * 2 ** round;
      const before = RESTART_BUDGET + 1 + round;
      const waiting = pool.openLink(rig.request({ spread: false }), observer(), stop.signal);
      waiting.catch(() => {});
      vi.advanceTimersByTime(mostMs / 2 - 1);
      expect(starts()).toBe(before);
      vi.advanceTimersByTime(mostMs / 2 + 1);
      await allDead(before + 1);
    }
    stop.abort();
  });
});
