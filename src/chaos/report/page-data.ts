/** The data that the report hands to the page's script (page/). Types only. */
import type { FaultKind, FaultOutcome } from "../run.ts";

/** A fault as the page gets it: short names, because there may be thousands. */
export interface PageFault {
  readonly kind: FaultKind;
  readonly atMs: number;
  readonly label: string;
  readonly waitMs: number;
  readonly outcome: FaultOutcome | null;
  /** Not recovered. */
  readonly bad: boolean;
}

/** The JSON inside `<script id="run">`. Columns of equal length, one entry per span of time. */
export interface PageData {
  readonly durationMs: number;
  readonly spanMs: number;
  readonly lowMs: number;
  readonly highMs: number;
  /** The slowest read before the first fault, or null. */
  readonly usualMs: number | null;
  readonly at: readonly number[];
  readonly p50: readonly (number | null)[];
  readonly p99: readonly (number | null)[];
  readonly max: readonly (number | null)[];
  readonly reads: readonly number[];
  /** MiB/s. */
  readonly rate: readonly number[];
  readonly faults: readonly PageFault[];
  /** One lane each, from the top. */
  readonly kinds: readonly { readonly kind: FaultKind; readonly shape: string }[];
}
