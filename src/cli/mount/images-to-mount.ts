/**
 * Opens and checks all images of a mount before anything is attached: the file system's, and those with further data.
 *
 * Used by mount-image.ts.
 */
import { closeSync, statSync } from "node:fs";
import { resolve } from "node:path";
import type { ImagePart } from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import { openChecked } from "../../manager/image-inspection.ts";
import type { OpenImage } from "../../source/open-image.ts";
import type { CliContext } from "../context.ts";
import type { MountRequest } from "./mount-request.ts";

/** Further data of a file system: an open image to be attached, or a block device as it is. */
export interface ExtraImage {
  readonly path: string;
  readonly image: OpenImage | undefined;
}

/** The caller closes them with closeImages. */
export interface OpenImages {
  readonly main: OpenImage;
  /** What the manager has to know of the main image; undefined if it is simply one EROFS file system. */
  readonly part: ImagePart | undefined;
  readonly extras: readonly ExtraImage[];
}

/** Undefined if an image does not exist and `nofail` is set. @throws ErofsNbdError */
export function openImages(context: CliContext, { image, options }: MountRequest): OpenImages | undefined {
  const { device, offsetBytes, extraImages } = options;
  const isPlain = offsetBytes === 0 && extraImages.length === 0;
  const part = isPlain ? undefined : { offsetBytes, extraDevices: extraImages.length };
  const opened: OpenImage[] = [];
  const openOne = (path: string, of?: ImagePart): OpenImage => {
    const one = openChecked(path, device.blockSizeBytes, true, of);
    opened.push(one);
    return one;
  };
  let path = image;
  try {
    const main = openOne(image, part);
    const extras = extraImages.map((word) => {
      path = word;
      // Known by its path alone: mount(8) and the kernel look for it in the mount namespace.
      if (statSync(word, { throwIfNoEntry: false })?.isBlockDevice())
        return { path: resolve(word), image: undefined };
      return { path: resolve(word), image: openOne(word, { offsetBytes: 0, extraOf: "the image" }) };
    });
    return { main, part, extras };
  } catch (error) {
    for (const { fd } of opened) closeSync(fd);
    const { code } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
    if (!options.isNofail || code !== "ENOENT") throw error;
    context.detail(`there is no ${path}: nothing done, because of nofail`);
    return undefined;
  }
}

export function closeImages({ main, extras }: OpenImages): void {
  closeSync(main.fd);
  for (const { image } of extras) if (image !== undefined) closeSync(image.fd);
}

/** Before anything is attached: mount(8) would call it a wrong file system type. @throws ErofsNbdError ERR_MOUNT */
export async function checkOffset(act: string, offsetBytes: number): Promise<void> {
  if (offsetBytes === 0) return;
  const { refusalOf } = await import("../../sys/libc/mount-api.ts");
  const why = refusalOf("erofs", "fsoffset", `${offsetBytes}`);
  if (why === undefined) return;
  throw new ErofsNbdError("ERR_MOUNT", `cannot ${act}: this kernel refuses fsoffset=${offsetBytes}: ${why}`, {
    hint: `boot Linux 6.16 or newer, or copy the image out of the file: tail -c +${offsetBytes + 1} FILE > IMAGE`,
  });
}
