/**
 * The test projects: unit (with property tests), counts (of system calls, files and lines), interop (programs of
 * other projects), launch, nodes, kernel and kernel-smp (real kernels, see test/kernel/linux-suite.ts).
 * EROFS_NBD_KERNELS names the kernels, "host" being this machine's own.
 */
import { defineConfig } from "vitest/config";
import { LIMITS } from "./test/limits.mjs";
import { LongestFirst } from "./test/longest-first.ts";

const kernels = (process.env["EROFS_NBD_KERNELS"] ?? "6.1,6.12,7.2,6.12-smp")
  .split(",")
  .filter((name) => name !== "");

function filesOf(names: readonly string[]): string[] {
  // A kernel may have a second guest (test/kernel/lab/plan.mjs).
  return names.flatMap((name) => ["", "-second"].map((guest) => `test/kernel/linux-${name}${guest}.test.ts`));
}

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from the default export
export default defineConfig({
  test: {
    // A guest is one process and waits a third of its time: three at a time suit two processors. Fewer than that at
    // least, and the pool leaves a last file waiting while one of the places is free.
    minWorkers: 3,
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/unit/**/*.test.ts", "test/property/**/*.test.ts"],
          // Many of these wait for processes, on machines that may be busy with other things.
          testTimeout: LIMITS.unitTestMs,
          hookTimeout: LIMITS.unitTestMs,
        },
      },
      {
        test: {
          name: "counts",
          include: ["test/bench/**/*.test.ts"],
          // A guest is a hook of these tests.
          hookTimeout: LIMITS.countsMs + LIMITS.hookMs,
        },
      },
      {
        test: {
          name: "interop",
          include: ["test/interop/**/*.test.ts"],
          globalSetup: ["test/kernel/global-setup.ts"],
          testTimeout: LIMITS.unitTestMs,
          hookTimeout: LIMITS.unitTestMs,
        },
      },
      {
        // How runs of the project's own scripts end.
        test: {
          name: "launch",
          include: ["test/launch/**/*.test.ts"],
          testTimeout: LIMITS.unitTestMs,
          hookTimeout: LIMITS.unitTestMs,
        },
      },
      {
        // Other versions of Node.js, and another processor; see test/nodes/node-suite.ts.
        test: { name: "nodes", include: ["test/nodes/**/*.test.ts"] },
      },
      {
        test: {
          name: "kernel",
          include: [
            ...filesOf(kernels.filter((name) => !name.endsWith("-smp"))),
            // A boot of its own: systemd wants to be process 1.
            ...(kernels.includes("6.12") ? ["test/kernel/systemd.test.ts"] : []),
          ],
          globalSetup: ["test/kernel/global-setup.ts"],
        },
      },
      {
        // Two emulated processors take all of two real ones: after everything else, beside nothing.
        test: {
          name: "kernel-smp",
          include: filesOf(kernels.filter((name) => name.endsWith("-smp"))),
          globalSetup: ["test/kernel/global-setup.ts"],
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
