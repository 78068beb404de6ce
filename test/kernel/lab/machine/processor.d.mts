/** Types of processor.mjs for TypeScript callers. */
export declare function claimProcessor(
  cpus?: readonly number[],
): Promise<{ readonly cpu: number; readonly release: () => void } | undefined>;
export declare function onProcessor(
  command: { readonly file: string; readonly args: readonly string[] },
  cpu: number,
): { readonly file: string; readonly args: readonly string[] };
export declare function processorsIn(list: string): number[];
