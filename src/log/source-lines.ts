/**
 * Translates stack frames in a bundle to lines of the sources, by the source map beside the bundle.
 *
 * The map is read only when a stack is printed. Node's own --enable-source-maps would read it at every start.
 */
import { readFileSync } from "node:fs";
import { SourceMap } from "node:module";

const PLACE_IN_BUNDLE = /(\/[^\s():]+\.cjs):(\d+):(\d+)/g;

/** Replaces "…/main.cjs:2:3456" by "src/manager/manager.ts:120:7". Unchanged without a map. */
export function toSourceLines(stack: string): string {
  const maps = new Map<string, SourceMap | undefined>();
  return stack.replaceAll(PLACE_IN_BUNDLE, (place, path: string, line: string, column: string) => {
    if (!maps.has(path)) maps.set(path, readMap(path));
    // Lines and columns count from 0 in a map, and from 1 in a stack.
    const found = maps.get(path)?.findEntry(Number(line) - 1, Number(column) - 1);
    if (found === undefined || !("originalSource" in found) || found.originalSource === undefined)
      return place;
    const source = found.originalSource.replace(/^(\.\.\/)+/, "");
    return `${source}:${found.originalLine + 1}:${found.originalColumn + 1}`;
  });
}

function readMap(path: string): SourceMap | undefined {
  try {
    return new SourceMap(JSON.parse(readFileSync(`${path}.map`, "utf8")));
  } catch {
    // No map, or an incomplete one: the position in the bundle stays.
    return undefined;
  }
}
