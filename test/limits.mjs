// @ts-check
/**
 * Every bound of the test run, in one place, from the innermost to the outermost: each is larger than the one inside
 * it, so that what ends first is what hangs and not what waits for it. test/unit/limits.test.ts holds the order.
 *
 * All are generous. Nothing waits for one of them as long as something goes on: waits end at states. In milliseconds.
 */
const ORDINARY = {
  /** A wait for one state in a unit test. */
  unitStepMs: 60_000,
  /** A unit or interoperability test, and each of its hooks, where it does not ask for less. */
  unitTestMs: 150_000,
  /** What a test has ended is gone: closing, reaping and disconnecting take a moment. */
  graceMs: 30_000,
  /** A wait for one state inside a test in a guest: a process is there, a device serves. */
  stepMs: 90_000,
  /** A hook of a test in a guest. */
  hookMs: 150_000,
  /** A test in a guest, where it does not ask for more. */
  testMs: 240_000,
  /** The most that a test may ask for. */
  longTestMs: 480_000,
  /**
   * After a test's own limit: for its hooks, before and behind it, and for vitest to say so. Then the test process is
   * stuck.
   */
  lateMs: 330_000,
  /** Nothing was heard from the test process, whatever it does. */
  silenceMs: 900_000,
  /** The guest in which calls and files are counted. */
  countsMs: 600_000,
  /** The story of the systemd guest: a dozen steps. */
  systemdMs: 20 * 60_000,
  /** All boots of one kernel together. */
  kernelMs: 45 * 60_000,
};

/** `npm run soak` does the same things more often; each of them takes as long as always. */
const factor = Math.max(1, Number(process.env["EROFS_NBD_SOAK"] ?? 1) || 1);

/** A timer holds no more than this; a larger one ends at once. */
const MOST_MS = 2 ** 31 - 1;
const grown = (/** @type {number} */ ms) => Math.min(ms * factor, MOST_MS);

export const LIMITS = Object.freeze({
  ...ORDINARY,
  testMs: grown(ORDINARY.testMs),
  longTestMs: grown(ORDINARY.longTestMs),
  silenceMs: grown(ORDINARY.silenceMs),
  kernelMs: grown(ORDINARY.kernelMs),
});

/** How often a kernel is booted again after a test that hung or took it down. */
export const MAX_BOOTS = 6;
