/**
 * Opens what an attach names: an image by the descriptor that came with the request, or a source module.
 *
 * Called by attach.ts. An image is never opened by its path, which may lead to another file from the manager.
 */
import type { AttachParams } from "../control/protocol.ts";
import { SUPERBLOCK_HEAD_BYTES } from "../erofs/superblock.ts";
import { ErofsNbdError } from "../errors.ts";
import { inspectModule } from "../pool/source-inspector.ts";
import type { PoolOptions } from "../pool/worker-pool.ts";
import { openHandedImage } from "../source/open-image.ts";
import { pathView } from "../source/path-view.ts";
import { type SourceSpec, sourceUri } from "../source/source-spec.ts";
import { close } from "../sys/libc/files.ts";
import { type Inspection, inspectHead, inspectImage } from "./image-inspection.ts";

export interface OpenedSource {
  /** Belongs to the caller, and later to the device. */
  readonly fd: number;
  readonly spec: SourceSpec;
  /** Checks the superblock. @throws ErofsNbdError, see image-inspection.ts */
  readonly inspect: () => Inspection;
}

/** A source as log lines and events name it. */
export const sourceName = (spec: SourceSpec): string => (spec.type === "file" ? sourceUri(spec) : spec.path);

/** Takes `imageFd` over. @throws ErofsNbdError ERR_IMAGE, ERR_SOURCE, ERR_BAD_ARGUMENT */
export async function openSource(
  { image: name, blockSizeBytes, forMount, module, part }: AttachParams,
  imageFd: number | undefined,
  workers: PoolOptions,
): Promise<OpenedSource> {
  if (module === undefined) {
    if (imageFd === undefined) {
      throw new ErofsNbdError(
        "ERR_BAD_ARGUMENT",
        `cannot attach ${name}: the command sent no descriptor of the image, so it is of an older version`,
        { hint: "upgrade the package that the command belongs to" },
      );
    }
    const image = openHandedImage(imageFd, name);
    return { ...image, inspect: () => inspectImage(image, blockSizeBytes, forMount, part) };
  }
  if (imageFd !== undefined) close(imageFd);
  refuseOtherView(name, module.view);
  const { fd, spec, head } = await inspectModule(name, module.options, SUPERBLOCK_HEAD_BYTES, workers);
  return { fd, spec, inspect: () => inspectHead(head, spec, blockSizeBytes, forMount) };
}

/** Workers load a module by its path, which must lead to the same file for them. @throws ErofsNbdError ERR_SOURCE */
function refuseOtherView(path: string, view: string | undefined): void {
  if (view !== undefined && view === pathView()) return;
  throw new ErofsNbdError(
    "ERR_SOURCE",
    `cannot use source module ${path}: ${
      view === undefined
        ? "the program does not say in which mount namespace (it has no /proc, or an older version of this package)"
        : "the manager is in another mount namespace, or under another root, where the path may lead elsewhere"
    }`,
    { hint: `attach it from where the manager is: nsenter -t ${process.pid} -m -r` },
  );
}
