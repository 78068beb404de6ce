// @ts-check
/** The programs that the build makes one file of (bundle.mjs), and what is not in them. */

/** Commands that more than a connection to a manager is needed for, and what makes more of the others. */
const NOT_IN_CLIENT =
  /\/(commands\/(serve|manager|chaos|install-units|doctor|completion)|foreground|watch|live)\.ts$/;
const NOT_IN_MANAGER = /\/commands\/(?!manager\.ts$)[\w-]+\.ts$/;

/** @typedef {import("./programs.d.mts").Program} Program */

/** @type {readonly Program[]} */
export const PROGRAMS = [
  { entry: "src/cli/run.ts", file: "src/cli/client.cjs", without: NOT_IN_CLIENT, cachedAfter: ["--help"] },
  {
    entry: "src/cli/run.ts",
    file: "src/manager/main.cjs",
    without: NOT_IN_MANAGER,
    cachedAfter: ["manager", "--help"],
  },
  { entry: "src/cli/mount-helper.ts", file: "src/cli/mount-helper.cjs" },
  { entry: "src/worker/start.ts", file: "src/worker/main.cjs" },
  { entry: "src/opener/start.ts", file: "src/opener/main.cjs" },
  // The last one: it knows the checksums of the others.
  { entry: "src/cli/main.ts", file: "src/cli/main.cjs", beside: /\/run\.ts$/ },
];
