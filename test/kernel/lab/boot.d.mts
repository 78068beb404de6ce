/** Types of boot.mjs for TypeScript callers. */
import type { BootOptions, BootResult, KernelSeries } from "./types.ts";

export declare const PROJECT_DIR: string;
export declare const KERNEL_SERIES: readonly KernelSeries[];
export declare function boot(options: BootOptions): Promise<BootResult>;
