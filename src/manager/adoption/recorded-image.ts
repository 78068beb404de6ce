/**
 * Opens the image of a record: by its file handle, which no mount can cover, or else by its path.
 *
 * Used by adoption, through other processes (image-openers.ts).
 */
import { type LostImage, type RecordedImage, refusal } from "../../opener/reopen-image.ts";
import type { SourceSpec } from "../../source/source-spec.ts";
import { MountTable } from "../../sys/files/mount-table.ts";
import type { DeviceRecord } from "../records/record.ts";
import type { ImageOpeners, Pending } from "./image-openers.ts";
import type { Answer } from "./opener-process.ts";

/** The receiver closes `fd`. */
export interface FoundImage {
  readonly fd: number;
  readonly spec: SourceSpec;
}

/** An image that is being opened. */
export interface Opening {
  /** Undefined: it was cancelled. Never rejects. */
  readonly result: Promise<FoundImage | LostImage | undefined>;
  /** Resolves when it takes so long that the device must be shown without its image. */
  readonly late: Promise<void>;
  /** To be called when the device has ended, or has its image from elsewhere. */
  cancel(): void;
}

export type RecordedSource = Pick<DeviceRecord, "image" | "imageHandle">;

export function openRecorded(openers: ImageOpeners, { image, imageHandle }: RecordedSource): Opening {
  let noteLate = (): void => {};
  const late = new Promise<void>((resolve) => {
    noteLate = resolve;
  });
  let pending: Pending | undefined;
  let isCancelled = false;
  const find = async (): Promise<FoundImage | LostImage | undefined> => {
    if (imageHandle !== null) {
      const order = { image: needed(image), handle: imageHandle };
      pending = openers.submit(order, imageHandle.fileSystem, noteLate);
      const found = foundBy(await pending.answer, image);
      if (found !== "missing") return found;
    }
    const refused = refusal(image);
    if (refused !== undefined || isCancelled) return refused;
    pending = openers.submit({ image: needed(image), handle: null }, placeOf(image.path), noteLate);
    const found = foundBy(await pending.answer, image);
    return found === "missing" ? undefined : found;
  };
  const cancel = (): void => {
    isCancelled = true;
    pending?.cancel();
  };
  return { result: find(), late, cancel };
}

/** A module's options may be longer than a message. */
const needed = (spec: SourceSpec): RecordedImage =>
  spec.type === "file"
    ? { type: "file", path: spec.path, identity: spec.identity }
    : { type: "module", path: spec.path };

function foundBy(
  answer: Answer | undefined,
  recorded: SourceSpec,
): FoundImage | LostImage | "missing" | undefined {
  if (answer?.type === "missing") return "missing";
  if (answer?.type !== "opened") return answer;
  return { fd: answer.fd, spec: recorded.type === "file" ? { ...recorded, ...answer.spec } : recorded };
}

/** The mount that a path leads to, in a word. Without /proc all paths are at one place. */
function placeOf(path: string): string {
  try {
    return `mount ${new MountTable().at(path)?.id}`;
  } catch {
    return "a path";
  }
}
