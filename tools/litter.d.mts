/** Types of litter.mjs for TypeScript callers. */
export declare function removeIfInterrupted(path: string): () => void;
export declare function listedLitter(run: string): string[];
