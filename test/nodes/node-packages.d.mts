/** Types of node-packages.mjs for TypeScript callers. */
export declare function prepareNode(version: string, processor: string): Promise<string>;
export declare function prepareArm64(): Promise<string[]>;
export declare function prepareDependencies(processor: string): Promise<string>;
