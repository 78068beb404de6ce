/** Types of initramfs.mjs for TypeScript callers. */
export interface CpioEntry {
  readonly path: string;
  readonly mode: number;
  readonly data?: Uint8Array;
  readonly major?: number;
  readonly minor?: number;
}
export declare function packCpio(entries: readonly CpioEntry[]): Buffer;
export declare function buildInitramfs(parts: {
  readonly busybox: Uint8Array;
  readonly overlayModule: Uint8Array | undefined;
  readonly init: Uint8Array;
}): Buffer;
