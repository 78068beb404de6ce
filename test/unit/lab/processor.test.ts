/** Each guest of User-Mode Linux runs on one processor, and guests share the processors out among themselves. */
import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { claimProcessor, onProcessor, processorsIn } from "../../kernel/lab/machine/processor.mjs";

/** Numbers that no machine has, so that guests of this machine are not in the way. */
const CPUS = [70_001, 70_002];

describe("claimProcessor", () => {
  test("gives each guest the processor with the fewest guests, and takes it back", async () => {
    const claims = [];
    for (let index = 0; index < 5; index++) claims.push(await claimProcessor(CPUS));
    expect(claims.map((claim) => claim?.cpu)).toEqual([70_001, 70_002, 70_001, 70_002, 70_001]);
    claims[1]?.release();
    const next = await claimProcessor(CPUS);
    expect(next?.cpu).toBe(70_002);
    for (const claim of [...claims, next]) claim?.release();
  });

  test("binds no guest where there is one processor only", async () => {
    expect(await claimProcessor([70_003])).toBeUndefined();
  });
});

test("onProcessor runs the program on that processor alone, in the same process", () => {
  const own = /^Cpus_allowed_list:\s*(\d+)/m;
  const cpu = Number(own.exec(spawnSync("cat", ["/proc/self/status"], { encoding: "utf8" }).stdout)?.[1]);
  const { file, args } = onProcessor(
    { file: "/bin/sh", args: ["-c", "echo $$; cat /proc/self/status"] },
    cpu,
  );
  const { stdout, pid } = spawnSync(file, args, { encoding: "utf8" });
  expect(stdout).toMatch(new RegExp(`^Cpus_allowed_list:\\s*${cpu}$`, "m"));
  expect(stdout.split("\n")[0]).toBe(String(pid));
});

test("processorsIn reads ranges and single numbers", () => {
  expect(processorsIn("0-3,8")).toEqual([0, 1, 2, 3, 8]);
  expect(processorsIn("1")).toEqual([1]);
  expect(processorsIn("")).toEqual([]);
});
