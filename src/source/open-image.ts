/**
 * Opening a local image for the first time: by path, read-only, once, with its identity pinned.
 *
 * Called when an image is attached or served and when a later manager finds a record. Every reason why a path
 * cannot be an image becomes one clear error here.
 */
import { openSync, realpathSync } from "node:fs";
import { ErofsNbdError } from "../errors.ts";
import { close } from "../sys/libc.ts";
import { identifyImage } from "./file-identity.ts";
import type { FileSourceSpec } from "./source-spec.ts";

/** An open image: the caller closes `fd` (close-on-exec). */
export interface OpenImage {
  readonly fd: number;
  readonly spec: FileSourceSpec;
}

const REASONS: Record<string, [why: string, hint: string]> = {
  ENOENT: ["there is no such file", "check the path; a relative path starts at the current directory"],
  ENOTDIR: ["a part of the path is not a directory", "check the path"],
  EACCES: ["permission denied", "run as root, or make the image and its directories readable"],
  EISDIR: ["it is a directory", "name an image file, such as one made by mkfs.erofs"],
  ELOOP: ["too many symbolic links", "check the path for a link that leads to itself"],
  ENXIO: ["no device is behind that node", "check that the device exists"],
};

/** @throws ErofsNbdError ERR_IMAGE: missing, unreadable, a directory, empty */
export function openImage(path: string): OpenImage {
  let fd: number;
  let absolute: string;
  try {
    absolute = realpathSync(path);
    // O_RDONLY | O_NONBLOCK (a FIFO must not block us) | O_CLOEXEC, which Node always adds.
    fd = openSync(absolute, 0o4000);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "an unknown error";
    const [why, hint] = REASONS[code] ?? [code, undefined];
    throw new ErofsNbdError("ERR_IMAGE", `Cannot open image ${path}: ${why}`, { hint, cause: error });
  }
  try {
    const identity = identifyImage(fd, path);
    if (identity.sizeBytes === 0) {
      throw new ErofsNbdError("ERR_IMAGE", `Cannot use ${path}: it is empty`, {
        hint: "make the image again; an interrupted build leaves an empty file",
      });
    }
    return { fd, spec: { type: "file", path: absolute, identity } };
  } catch (error) {
    close(fd);
    throw error;
  }
}
