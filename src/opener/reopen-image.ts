/**
 * Opens the image of a record again, if what is found is what was attached.
 *
 * For devices without a living worker: their workers' descriptors are gone. All of this may wait for a file system that
 * does not answer, so it runs in a process that can be lost (start.ts); `refusal` alone is for the manager itself.
 */
import { describeChange, describeDoubt, identifyImage } from "../source/file-identity.ts";
import { openImage } from "../source/open-image.ts";
import { openModule } from "../source/open-module.ts";
import { pathView } from "../source/path-view.ts";
import {
  type FileSourceSpec,
  type ModuleSourceSpec,
  type SourceSpec,
  sourceUri,
} from "../source/source-spec.ts";
import { type FileHandle, openByHandle } from "../sys/files/file-handle.ts";
import type { MountTable } from "../sys/files/mount-table.ts";
import { close } from "../sys/libc/files.ts";

/** The caller closes `fd`. A module's spec stays that of its record. */
export interface ReopenedImage {
  readonly fd: number;
  readonly spec: FileSourceSpec | undefined;
}

/** Why an image was not opened again, and how the user can give it back to its device. */
export interface LostImage {
  readonly why: string;
  readonly remedy: string;
}

/** What is needed of a spec. */
export type RecordedImage =
  | Pick<FileSourceSpec, "type" | "path" | "identity">
  | Pick<ModuleSourceSpec, "type" | "path">;

/** The command that gives a device its image back. */
export const HAND_IN = "erofs-nbd attach IMAGE";
const lost = (why: string): LostImage => ({ why, remedy: `hand the image in: ${HAND_IN}` });

/** Why its path must not be followed. Waits for nothing. */
export function refusal(spec: SourceSpec): LostImage | undefined {
  if (spec.type === "module" && spec.view !== undefined && spec.view !== pathView())
    return lost(`${spec.path} was loaded in another mount namespace, or under another root`);
  if (spec.type === "file" && spec.isHandedIn)
    return lost(`${sourceUri(spec)} was handed in as a descriptor: no path leads to it from here`);
  return undefined;
}

/** Undefined if the handle does not lead to it, whatever the reason: its path says more. */
export function reopenByHandle(
  spec: RecordedImage,
  handle: FileHandle,
  mounts?: MountTable,
): ReopenedImage | undefined {
  if (spec.type === "module") return undefined;
  let fd: number | undefined;
  try {
    fd = openByHandle(handle, mounts);
    const identity = identifyImage(fd, spec.path);
    const why = describeChange(spec.identity, identity) ?? describeDoubt(spec.identity, identity);
    if (why === undefined) return { fd, spec: { ...spec, identity } };
  } catch {
    // Not permitted, another file system by now, or the file is gone.
  }
  if (fd !== undefined) close(fd);
  return undefined;
}

export function reopenByPath(spec: RecordedImage): ReopenedImage | LostImage {
  try {
    // Workers check that the module still makes the same source of its options.
    if (spec.type === "module") return { fd: openModule(spec.path).fd, spec: undefined };
    const image = openImage(spec.path);
    const change = describeChange(spec.identity, image.spec.identity);
    const doubt = describeDoubt(spec.identity, image.spec.identity);
    if (change === undefined && doubt === undefined) return image;
    close(image.fd);
    if (change !== undefined) return lost(`${spec.path} is not what was attached: ${change}`);
    return {
      why: `${spec.path} may not be what was attached: ${doubt}`,
      remedy: `if its bytes are the same, hand it in: ${HAND_IN}`,
    };
  } catch (error) {
    return lost(error instanceof Error ? error.message : String(error));
  }
}
