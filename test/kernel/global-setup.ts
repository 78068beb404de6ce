/**
 * Global setup of the test projects that need programs from the distribution: installs what is missing, once, before
 * any test or guest starts (a guest has no network). Where that can't be done it says so and lets the tests fail.
 */
import { ensurePackages, TEST_PACKAGES } from "../helpers/packages.ts";

/** Called by vitest. */
export function setup(): void {
  try {
    ensurePackages(TEST_PACKAGES);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
  }
}
