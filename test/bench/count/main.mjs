// @ts-check
/** `npm run bench:count`: counts, prints the tables, and compares them with the committed ones or writes those anew. */
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { countHouseBeyond, HOUSE_COLUMNS } from "./house.mjs";
import { measure, SECTIONS, TABLE_PATH } from "./sections.mjs";
import { compare, formatTable, readTable, writeTable } from "./table.mjs";

const USAGE = `usage: npm run bench:count [-- --write]

  --write   write the tables of test/bench/count/README.md anew

Exit status 1: a figure is worse than the table, or in one of the two only.
`;

/** @param {string} text */
const print = (text) => void process.stdout.write(`${text}\n`);

async function main() {
  const { values } = parseArgs({ options: { write: { type: "boolean" }, help: { type: "boolean" } } });
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const measured = await measure();
  let text = readFileSync(TABLE_PATH, "utf8");
  const differences = [];
  for (const section of SECTIONS) {
    const rows = measured.get(section.name) ?? new Map();
    print(`\n${section.name}\n${formatTable(section, rows)}`);
    differences.push(...compare(section, readTable(text, section.name), rows));
    if (values.write) text = writeTable(text, section, rows);
  }
  const counted = { name: "only counted", columns: HOUSE_COLUMNS, digits: 0, slack: () => 0 };
  print(`\n${counted.name}\n${formatTable(counted, countHouseBeyond())}\n`);
  for (const difference of differences) print(difference.text);
  if (values.write) {
    writeFileSync(TABLE_PATH, text);
    print(`${TABLE_PATH} has these figures now`);
    return 0;
  }
  if (differences.length > 0)
    print("Write the tables anew, where that is meant: npm run bench:count -- --write");
  else print("Everything is as the tables say.");
  return differences.every(({ verdict }) => verdict === "better") ? 0 : 1;
}

process.exitCode = await main();
