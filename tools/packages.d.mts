/** Types of packages.mjs for TypeScript callers. */
export declare class ToolError extends Error {
  readonly hint: string | undefined;
  constructor(message: string, hint?: string);
}
export declare function installPackages(options?: {
  root?: string;
  say?: (line: string) => void;
}): Promise<void>;
export declare function staleness(root: string): string | undefined;
export declare function npmCommand(): string[];
export declare function reportToolError(error: unknown): number;
