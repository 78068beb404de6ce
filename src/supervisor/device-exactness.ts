/**
 * How far what a device answers is what was attached, from what its links' workers tell.
 */
import type { Exactness } from "../source/exactness.ts";

/** How far a device's answers are the bytes that were attached. */
export interface DeviceExactness {
  /** Of the weakest link; null where nothing keeps or checks them (block devices, modules), and where nothing is known. */
  readonly exact: "lease" | "checked" | null;
  /** What has changed in the image, in words, while its reads are answered with errors for that. */
  readonly imageChange: string | null;
}

/** What links tell, in one. */
export function exactnessOf(links: readonly (Exactness | undefined)[]): DeviceExactness {
  const told = links.filter((link) => link !== undefined);
  const isLeased = told.length === links.length && told.every(({ exact }) => exact === "lease");
  return {
    exact: told.length === 0 ? null : isLeased ? "lease" : "checked",
    imageChange: told.find(({ change }) => change !== null)?.change ?? null,
  };
}

/** Tells once that an image is no longer what it was, and once that it is again. */
export class ImageChanges {
  readonly #tell: (change: string | undefined) => void;
  #hasChanged = false;

  constructor(tell: (change: string | undefined) => void) {
    this.#tell = tell;
  }

  look({ imageChange }: DeviceExactness): void {
    const hasChanged = imageChange !== null;
    if (hasChanged === this.#hasChanged) return;
    this.#hasChanged = hasChanged;
    this.#tell(imageChange ?? undefined);
  }
}
