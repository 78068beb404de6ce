/** table.mjs: what was planned against what ran, and no cell disappears. */
import { expect, test } from "vitest";
import { filesOfGuest, guestFiles, plannedFiles, SYSTEMD_FILE } from "../../kernel/lab/plan.mjs";
import { kernelTable } from "../../kernel/lab/report/table.mjs";

const KERNELS = ["6.1", "6.12", "7.2", "6.12-smp"];
const whole = { kernels: KERNELS, wanted: [], isWhole: true };

type Told = readonly [kernel: string, file: string | undefined, status: string];

function reportOf(told: readonly Told[]): Parameters<typeof kernelTable>[0] {
  const assertionResults = told.map(([kernel, file, status]) => ({
    status,
    ancestorTitles: file === undefined ? [`linux ${kernel}`] : [`linux ${kernel}`, file],
  }));
  return { testResults: [{ assertionResults }] };
}

/** Every planned cell, with one test that passed. */
const all: Told[] = [
  ...KERNELS.flatMap((kernel) => plannedFiles(kernel, []).map((file): Told => [kernel, file, "passed"])),
  ["6.12 with systemd", undefined, "passed"],
];

/** The words of a row. */
const row = (text: string, file: string): string[] =>
  text
    .split("\n")
    .find((line) => line.startsWith(`${file} `))
    ?.split(/ {2,}/)
    .slice(1) ?? [];

test("the plan runs every file on some kernel", () => {
  const planned = new Set(KERNELS.flatMap((kernel) => plannedFiles(kernel, [])));
  expect([...planned].sort()).toEqual(guestFiles().sort());
});

test.each(KERNELS)("the guests of %s share out what is planned for it", (kernel) => {
  const both = [...filesOfGuest(kernel, "first", []), ...filesOfGuest(kernel, "second", [])];
  expect(both.sort()).toEqual(plannedFiles(kernel, []).sort());
});

test("7.2 has a second guest, and a run of one file uses one of the two", () => {
  expect(filesOfGuest("7.2", "second", []).length).toBeGreaterThan(0);
  expect(filesOfGuest("7.2", "second", ["lab.test"])).toEqual([]);
  expect(filesOfGuest("7.2", "first", ["lab.test"])).toEqual(["lab.test.ts"]);
});

test("a run with every cell: a row for each file, and nothing is missing", () => {
  const { text, missing } = kernelTable(reportOf(all), whole);
  expect(missing).toBe(0);
  expect(text.split("\n")[0]?.split(/ {2,}/)).toEqual(["kernel tests", ...KERNELS]);
  for (const file of guestFiles()) expect(row(text, file)).toHaveLength(KERNELS.length);
  expect(row(text, "ioctl.test.ts")).toEqual(["-", "1", "-", "-"]);
  expect(row(text, SYSTEMD_FILE)).toEqual(["-", "1", "-", "-"]);
});

test("what passed, failed and was skipped is counted in its cell", () => {
  const more: Told[] = [
    ["7.2", "cli.test.ts", "failed"],
    ["7.2", "cli.test.ts", "pending"],
    ["7.2", "the whole run", "failed"],
  ];
  const { text, missing } = kernelTable(reportOf([...all, ...more]), whole);
  expect(missing).toBe(0);
  expect(row(text, "cli.test.ts")).toEqual(["-", "-", "1, 1 FAILED, 1 skipped", "-"]);
  expect(row(text, "the whole run")).toEqual(["-", "-", "0, 1 FAILED", "-"]);
});

test("a planned cell without a test is missing, and so is a kernel that told nothing at all", () => {
  const without = all.filter(([kernel, file]) => !(kernel === "6.12" && file === "ioctl.test.ts"));
  const { text, missing } = kernelTable(reportOf(without), whole);
  expect([missing, row(text, "ioctl.test.ts")]).toEqual([1, ["-", "NOT RUN", "-", "-"]]);
  const none = kernelTable(reportOf(all.filter(([kernel]) => kernel !== "6.12-smp")), whole);
  expect(none.missing).toBe(plannedFiles("6.12-smp", []).length);
});

test("a kernel that this machine cannot boot has said so", () => {
  const told: Told[] = [...all.filter(([kernel]) => kernel !== "7.2"), ["7.2", undefined, "pending"]];
  const { text, missing } = kernelTable(reportOf(told), whole);
  expect([missing, row(text, "cli.test.ts")]).toEqual([0, ["-", "-", "skipped", "-"]]);
});

test("a run for something else has no table, one for a kernel or a file only that", () => {
  const part = { ...whole, isWhole: false };
  expect(kernelTable(reportOf([]), part)).toEqual({ text: "", missing: 0 });
  const one: Told[] = [["6.1", "lab.test.ts", "passed"]];
  const { text, missing } = kernelTable(reportOf(one), { ...part, wanted: ["lab.test"] });
  expect([missing, row(text, "lab.test.ts"), text.split("\n").length]).toEqual([0, ["1"], 4]);
});
