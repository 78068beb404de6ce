/** Types of per-read.mjs for TypeScript callers. */
import type { Call } from "./strace.d.mts";

export declare const READ_COLUMNS: readonly string[];
export declare function perRead(calls: readonly Call[], depth: number): number[];
