/**
 * Stack frames that are in a bundle, as places in the sources, by the map beside it.
 *
 * For the few who print a stack: the map is read when that happens. Node's own --enable-source-maps would read it at
 * every start.
 */
import { readFileSync } from "node:fs";
import { SourceMap } from "node:module";

const PLACE_IN_BUNDLE = /(\/[^\s():]+\.cjs):(\d+):(\d+)/g;

/** The text with "…/main.cjs:2:3456" replaced by "src/manager/manager.ts:120:7"; as it was where there is no map. */
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
    // Not a bundle of ours, or not whole: then the place in it has to do.
    return undefined;
  }
}
