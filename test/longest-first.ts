/**
 * The order in which test files begin: the guests first, the longest of them before the others, so that none is left to
 * run alone when everything else is over. The unit tests take the places that guests leave.
 */
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Each takes minutes, depending on the files that it runs (test/kernel/lab/plan.mjs). */
const LONG = [
  "linux-7.2.test.ts",
  "linux-6.12.test.ts",
  "linux-7.2-second.test.ts",
  "linux-6.1.test.ts",
  "systemd.test.ts",
];

/** Used by vitest.config.ts. */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const at = LONG.findIndex((name) => moduleId.endsWith(`/test/kernel/${name}`));
      return at === -1 ? LONG.length : at;
    };
    // The sort is stable: the others stay as they are.
    return (await super.sort(files)).sort((one, other) => rank(one) - rank(other));
  }
}
