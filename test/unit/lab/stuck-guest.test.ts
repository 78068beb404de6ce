/** A guest that gets no further, by no fault of what runs in it, is seen at once and started again. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Stuck, watchForStuck } from "../../kernel/lab/machine/stuck-guest.mjs";

/** As 6.12 wrote it when QEMU had lost a timer of the second processor. */
const LOST_TIMER =
  "[  611.288419] rcu: rcu_preempt kthread timer wakeup didn't happen for 15751 jiffies! g-1127 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x402\n";
const LONG_MS = 600_000;
const SOON_MS = 1;

describe("watchForStuck", () => {
  let share: string;
  beforeEach(() => {
    share = mkdtempSync(join(tmpdir(), "erofs-nbd-stuck-"));
  });
  afterEach(() => rmSync(share, { recursive: true, force: true }));

  const firstOf = (isEmulated: boolean, startMs: number): Promise<Stuck> =>
    new Promise((done) => {
      watchForStuck({ share, isEmulated, startMs }, done);
    });

  test("reports a guest that does not start its command", async () => {
    writeFileSync(join(share, "console.log"), "Linux version 6.12\n");
    expect(await firstOf(false, SOON_MS)).toEqual({
      kind: "no-start",
      why: `did not start its command within ${SOON_MS} ms`,
    });
  });

  test("reports a lost timer before the command runs as a start that failed, and later as what it is", async () => {
    writeFileSync(join(share, "console.log"), LOST_TIMER);
    expect((await firstOf(true, LONG_MS)).kind).toBe("no-start");
    writeFileSync(join(share, "started"), "5.2 3.1\n");
    const { kind, why } = await firstOf(true, LONG_MS);
    expect(kind).toBe("lost-timer");
    expect(why).toContain("didn't happen for 15751 jiffies");
  });

  test("leaves a guest alone that has started, and one without an emulator", async () => {
    writeFileSync(join(share, "started"), "5.2 3.1\n");
    writeFileSync(join(share, "console.log"), LOST_TIMER);
    const seen: Stuck[] = [];
    const watch = watchForStuck({ share, isEmulated: false, startMs: SOON_MS }, (stuck) => seen.push(stuck));
    await new Promise((done) => setTimeout(done, 20 * SOON_MS));
    watch.close();
    expect(seen).toEqual([]);
  });
});
