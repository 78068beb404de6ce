/** limits.mjs: bounds inside one another are ordered, and tests ask for no more than there is. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LIMITS } from "../limits.mjs";

test("each bound is larger than what it bounds, with room for more than one of it where there may be more", () => {
  const { graceMs, stepMs, hookMs, testMs, longTestMs, lateMs, silenceMs, systemdMs, kernelMs } = LIMITS;
  expect(LIMITS.unitStepMs * 2).toBeLessThan(LIMITS.unitTestMs);
  expect(graceMs).toBeLessThan(stepMs);
  expect(stepMs * 2).toBeLessThan(testMs);
  expect(testMs).toBeLessThan(longTestMs);
  expect(longTestMs + lateMs).toBeLessThan(silenceMs);
  expect(stepMs).toBeLessThan(hookMs);
  // One before the test and one behind it.
  expect(hookMs * 2).toBeLessThan(lateMs);
  expect(silenceMs * 2).toBeLessThan(kernelMs);
  // Each of its steps waits for a few states.
  expect(stepMs * 12).toBeLessThan(systemdMs);
  expect(systemdMs).toBeLessThan(kernelMs);
});

test("no kernel test has a limit of its own that is not one of these", () => {
  const directory = new URL("../kernel/guest/", import.meta.url).pathname;
  const own = readdirSync(directory)
    .filter((name) => name.endsWith(".test.ts"))
    .flatMap((name) => {
      const text = readFileSync(join(directory, name), "utf8");
      return [...text.matchAll(/^\s*\}, (\d[\d_]*)\);$/gm)].map(([, limit]) => `${name}: ${limit}`);
    });
  expect(own).toEqual([]);
});
