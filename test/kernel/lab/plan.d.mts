/** Types of plan.mjs for TypeScript callers. */
export declare const GUEST_DIR: string;
export declare const SYSTEMD_FILE: string;
export declare const SYSTEMD_KERNEL: string;
export declare function guestFiles(): string[];
export declare function plannedFiles(kernel: string, wanted: readonly string[]): string[];
export declare function filesOfGuest(
  kernel: string,
  guest: "first" | "second",
  wanted: readonly string[],
): string[];
