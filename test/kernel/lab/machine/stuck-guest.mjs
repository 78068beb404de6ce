// @ts-check
/**
 * Sees that a guest will get no further: it does not start, or the emulator has lost one of its timers.
 *
 * boot.mjs calls it. Neither has to do with what runs in the guest: a kernel of the lab starts within seconds, on a
 * loaded machine within a minute, and an emulated one now and then waits for ever for a timer of one of its processors.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

/** How long a guest may take until its command starts. */
const START_MS = 180_000;
const LOOK_MS = 2000;
/** kernel/rcu/tree_stall.h, rcu_check_gp_kthread_expired_fqs_timer: the timer is over, and its processor is idle. */
const LOST_TIMER = /rcu_\w+ kthread timer wakeup didn't happen for (\d+) jiffies/;

/**
 * Why a guest is given up: it did not come to its command, which can be tried again, or it stopped behind that.
 * @typedef {{ kind: "no-start" | "lost-timer", why: string }} Stuck
 */

/**
 * Looks at a guest until it is stuck, once, or until `close()`.
 * @param {{ share: string, isEmulated: boolean, startMs?: number | undefined }} guest `share` has `started` once
 *   its command runs, and `console.log`
 * @param {(stuck: Stuck) => void} onStuck
 * @returns {{ close(): void }}
 */
export function watchForStuck({ share, isEmulated, startMs = START_MS }, onStuck) {
  const beganAtMs = performance.now();
  const log = logReader(join(share, "console.log"));
  const timer = setInterval(
    () => {
      const hasStarted = existsSync(join(share, "started"));
      const lost = isEmulated ? LOST_TIMER.exec(log()) : null;
      if (lost !== null) report(hasStarted, `lost a timer: "${lost[0]}"`);
      else if (!hasStarted && performance.now() - beganAtMs > startMs) {
        report(false, `did not start its command within ${startMs} ms`);
      }
    },
    Math.min(LOOK_MS, startMs),
  );
  const report = (/** @type {boolean} */ hasStarted, /** @type {string} */ why) => {
    clearInterval(timer);
    onStuck({ kind: hasStarted ? "lost-timer" : "no-start", why });
  };
  return { close: () => clearInterval(timer) };
}

/**
 * Reads a log when it has grown; nothing when it has not, or is not there.
 * @param {string} path
 */
function logReader(path) {
  let seen = 0;
  return () => {
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    if (size === seen) return "";
    seen = size;
    return readFileSync(path, "utf8");
  };
}
