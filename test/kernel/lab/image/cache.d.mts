/** Types of cache.mjs for TypeScript callers. */
export declare function cacheRoot(): string;
export declare function cacheEntry(
  name: string,
  prepare: (directory: string) => Promise<void>,
): Promise<string>;
