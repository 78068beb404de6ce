/**
 * No figure of README.md gets worse unless its table is changed with it: one test for each row.
 *
 * Counts, not times: they are the same on every machine.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { measure, SECTIONS, TABLE_PATH } from "./sections.mjs";
import { compare, type Difference, readTable } from "./table.mjs";

const text = readFileSync(TABLE_PATH, "utf8");
const differences = new Map<string, Difference[]>();

beforeAll(async () => {
  const measured = await measure();
  for (const section of SECTIONS) {
    const rows = measured.get(section.name) ?? new Map();
    differences.set(section.name, compare(section, readTable(text, section.name), rows));
  }
});

afterAll(() => {
  const better = [...differences.values()].flat().filter(({ verdict }) => verdict === "better");
  if (better.length === 0) return;
  const lines = better.map((difference) => `  ${difference.text}`);
  process.stdout.write(
    `${lines.join("\n")}\nHold on to what is better: npm run bench:count -- --write, and commit the table\n`,
  );
});

for (const { name } of SECTIONS) {
  const { rows } = readTable(text, name);
  const not = (row: (name: string) => boolean): string[] =>
    (differences.get(name) ?? [])
      .filter((difference) => row(difference.row) && difference.verdict !== "better")
      .map((difference) => difference.text);

  describe(`counts of ${name}`, () => {
    test.each([...rows.keys()])("%s: no figure is worse than in the table", (row) => {
      expect(differences.has(name)).toBe(true);
      expect(not((other) => other === row)).toEqual([]);
    });

    test("the table has every row that is measured", () => {
      expect(differences.has(name)).toBe(true);
      expect(not((row) => !rows.has(row))).toEqual([]);
    });
  });
}
