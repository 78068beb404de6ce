/**
 * Opens the image of a record again by its path, if what is there is what was attached.
 *
 * Used by adoption for devices without a living worker: their workers' descriptors are gone.
 */
import { describeChange, describeDoubt } from "../../source/file-identity.ts";
import { openImage } from "../../source/open-image.ts";
import { openModule } from "../../source/open-module.ts";
import { pathView } from "../../source/path-view.ts";
import { type SourceSpec, sourceUri } from "../../source/source-spec.ts";
import { close } from "../../sys/libc/files.ts";
import type { DeviceRecord } from "../records/record.ts";

/** The caller closes `fd`. */
export interface ReopenedImage {
  readonly fd: number;
  readonly spec: SourceSpec;
}

/** Why an image was not opened again, and how the user can give it back to its device. */
export interface LostImage {
  readonly why: string;
  readonly remedy: string;
}

/** The command that gives a device its image back. */
export const HAND_IN = "erofs-nbd attach IMAGE";

export function reopenImage({ image: spec }: DeviceRecord): ReopenedImage | LostImage {
  const lost = (why: string): LostImage => ({ why, remedy: `hand the image in: ${HAND_IN}` });
  try {
    if (spec.type === "module" && spec.view !== undefined && spec.view !== pathView())
      return lost(`${spec.path} was loaded in another mount namespace, or under another root`);
    // Workers check that the module still makes the same source of its options.
    if (spec.type === "module") return { fd: openModule(spec.path).fd, spec };
    if (spec.isHandedIn)
      return lost(`${sourceUri(spec)} was handed in as a descriptor: no path leads to it from here`);
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
