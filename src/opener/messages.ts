/** The messages between a manager and a process that opens images for it, over a seqpacket socket. Types only. */
import type { FileSourceSpec } from "../source/source-spec.ts";
import type { FileHandle } from "../sys/files/file-handle.ts";
import type { LostImage, RecordedImage } from "./reopen-image.ts";

/** The opener's end of the socket. */
export const OPENER_FD = 3;

/** One image at a time, by its handle or else by its path. The answer is an OpenerAnswer. */
export interface OpenOrder {
  readonly image: RecordedImage;
  readonly handle: FileHandle | null;
}

/** `opened` comes with the descriptor; `spec` is missing for a module. `missing`: the handle does not lead to it. */
export type OpenerAnswer =
  | { readonly type: "ready" }
  | { readonly type: "opened"; readonly spec?: FileSourceSpec | undefined }
  | { readonly type: "missing" }
  | ({ readonly type: "lost" } & LostImage);
