/** Types of costs.mjs for TypeScript callers. */
import type { Call } from "./strace.d.mts";

export declare const START_COLUMNS: readonly string[];
export declare function costs(
  calls: readonly Call[],
  root: string,
  bytesOf: (path: string) => number,
): Map<string, number[]>;
export declare function sum(rows: readonly (readonly number[])[]): number[];
