/** Types of house.mjs for TypeScript callers. */

export declare function measure(texts: ReadonlyMap<string, string>): number[];

export declare const HOUSE_COLUMNS: readonly string[];
export declare function countHouse(): Map<string, number[]>;
export declare function countHouseBeyond(): Map<string, number[]>;
