/** doctor/checks.ts: settings of a kernel that this machine does not have. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { checkHungTasks } from "../../../src/cli/doctor/checks.ts";

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-doctor-"));
afterAll(() => rmSync(directory, { recursive: true }));

test.each([
  ["0", "120", "ok"],
  ["1", "0", "ok"],
  ["1", "120", "warn"],
] as const)("hung_task_panic=%s and hung_task_timeout_secs=%s: %s", (panic, seconds, state) => {
  writeFileSync(join(directory, "hung_task_panic"), `${panic}\n`);
  writeFileSync(join(directory, "hung_task_timeout_secs"), `${seconds}\n`);
  const verdict = checkHungTasks(directory);
  expect(verdict.state).toBe(state);
  if (state === "ok") return;
  expect(verdict.detail).toContain("more than 120 s panics the machine");
  expect(verdict.hint).toBe("sysctl kernel.hung_task_panic=0, or attach with a --dead-timeout below 120");
});

test("a kernel without detection of hung tasks cannot panic because of one", () => {
  expect(checkHungTasks(join(directory, "nowhere")).state).toBe("ok");
});
