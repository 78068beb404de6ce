/**
 * The state table of src/supervisor/device-state.ts as Markdown, for ARCHITECTURE.md and the test that compares them.
 *
 * Rendered from TABLE itself, so that the document can only be the table.
 */
import { STATES, TABLE, type Transition } from "../../src/supervisor/device-state.ts";

export const STATE_TABLE_BEGIN = "<!-- state table -->";
export const STATE_TABLE_END = "<!-- /state table -->";

/** What belongs between the two markers, without leading or trailing newlines. */
export function renderStateTable(): string {
  const rows = STATES.flatMap((state) => {
    const entries = Object.entries(TABLE[state]) as Array<[string, Transition]>;
    if (entries.length === 0) return [`| ${state} | any | ${state} | none: it is over |`];
    return entries.map(
      ([event, { next, effects }]) => `| ${state} | ${event} | ${next} | ${effects.join(", ") || "none"} |`,
    );
  });
  return ["| state | event | next | effects, in order |", "|---|---|---|---|", ...rows].join("\n");
}
