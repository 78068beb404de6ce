/** Types of table.mjs for TypeScript callers. */
export declare function kernelTable(
  report: {
    readonly testResults: ReadonlyArray<{
      readonly assertionResults: ReadonlyArray<{
        readonly status: string;
        readonly ancestorTitles: readonly string[];
      }>;
    }>;
  },
  run: { readonly kernels: readonly string[]; readonly wanted: readonly string[]; readonly isWhole: boolean },
): { readonly text: string; readonly missing: number };
