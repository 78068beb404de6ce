/** ARCHITECTURE.md prints the state table; here it is compared with the table that runs. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { renderStateTable, STATE_TABLE_BEGIN, STATE_TABLE_END } from "../../helpers/state-table.ts";

const PATH = new URL("../../../ARCHITECTURE.md", import.meta.url);

function documentedTable(): string | undefined {
  let text: string;
  try {
    text = readFileSync(PATH, "utf8");
  } catch {
    return undefined;
  }
  const begin = text.indexOf(STATE_TABLE_BEGIN);
  const end = text.indexOf(STATE_TABLE_END);
  return begin < 0 || end < begin ? undefined : text.slice(begin + STATE_TABLE_BEGIN.length, end).trim();
}

test("ARCHITECTURE.md prints the state table", () => {
  const wanted = renderStateTable();
  const paste = `put this into ARCHITECTURE.md:\n\n${STATE_TABLE_BEGIN}\n${wanted}\n${STATE_TABLE_END}\n`;
  expect(documentedTable(), paste).toBe(wanted);
});
