/**
 * What a manager and its workers say to each other over the control channel. Types only.
 *
 * Link numbers are given by the manager and never used twice in its life. Both ends are the same version of this
 * program: a manager starts its own workers.
 */
import type { SourceSpec } from "../source/source-spec.ts";
import type { LinkCounters, LinkEnd } from "./link-end.ts";

/** Where a worker finds its end of the control channel. */
export const CONTROL_FD = 3;

export type ToWorker =
  /** Serve a link. With it come two descriptors: the link's server end, and the image. */
  | {
      readonly type: "serve";
      readonly link: number;
      readonly source: SourceSpec;
      readonly blockSizeBytes: number;
      readonly copyOnly: boolean;
    }
  /** Give a link up: close its socket without answering what is left. */
  | { readonly type: "close"; readonly link: number }
  /** Say what every link has done. */
  | { readonly type: "report"; readonly token: number }
  /** Leave as soon as no link is left. */
  | { readonly type: "stop" };

export type FromWorker =
  | { readonly type: "ready" }
  | { readonly type: "serving"; readonly link: number }
  | { readonly type: "refused"; readonly link: number; readonly message: string }
  | { readonly type: "first-request"; readonly link: number }
  | { readonly type: "read-error"; readonly link: number; readonly message: string; readonly count: number }
  | { readonly type: "ended"; readonly link: number; readonly end: LinkEnd; readonly counters: LinkCounters }
  | { readonly type: "report"; readonly token: number; readonly links: readonly LinkReport[] };

export interface LinkReport {
  readonly link: number;
  readonly counters: LinkCounters;
}
