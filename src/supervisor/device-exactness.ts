/**
 * Whether a device's reads are the bytes that were attached, computed from what the workers of its links report.
 */
import type { Exactness } from "../source/exactness.ts";

/** How a device's reads are kept equal to the bytes that were attached. */
export interface DeviceExactness {
  /** Of the weakest link; null where nothing keeps or checks them (block devices, modules), or nothing is known. */
  readonly exact: "lease" | "checked" | null;
  /** What has changed in the image, while its reads fail because of that. */
  readonly imageChange: string | null;
}

/** Combines the reports of all links. */
export function exactnessOf(links: readonly (Exactness | undefined)[]): DeviceExactness {
  const told = links.filter((link) => link !== undefined);
  const isLeased = told.length === links.length && told.every(({ exact }) => exact === "lease");
  return {
    exact: told.length === 0 ? null : isLeased ? "lease" : "checked",
    imageChange: told.find(({ change }) => change !== null)?.change ?? null,
  };
}

/** Reports once that an image has changed, and once that it is what was attached again. */
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
