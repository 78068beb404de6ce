/** Types of sections.mjs for TypeScript callers. */
import type { Section } from "./table.d.mts";

export declare const TABLE_PATH: string;
export declare const SECTIONS: readonly Section[];
export declare function measure(): Promise<Map<string, Map<string, number[]>>>;
