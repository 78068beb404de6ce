/**
 * What is checked before a manager is started: a bad path or a missing right must not leave a daemon behind.
 *
 * The manager checks all of it again, on the descriptor it keeps.
 */
import { resolve } from "node:path";
import { ErofsNbdError } from "../errors.ts";
import { inspectImage } from "../manager/image-inspection.ts";
import { openImage } from "../source/open-image.ts";
import { close } from "../sys/libc.ts";

/** `act` follows «Cannot ». @throws ErofsNbdError ERR_PERMISSION */
export function requireRoot(act: string): void {
  if (process.geteuid?.() === 0) return;
  throw new ErofsNbdError("ERR_PERMISSION", `Cannot ${act}: only root may`, {
    hint: "run it with sudo; the kernel wants CAP_SYS_ADMIN for this",
  });
}

/**
 * The image's absolute path, if it can be attached; with `forMount`, if it can be mounted as EROFS.
 * @throws ErofsNbdError ERR_IMAGE, ERR_NOT_EROFS, ERR_MOUNT
 */
export function checkImage(path: string, blockSizeBytes: number | null, forMount: boolean): string {
  if (path === "") throw new ErofsNbdError("ERR_BAD_ARGUMENT", "Cannot open an image: its path is empty");
  const image = openImage(path);
  try {
    inspectImage(image, blockSizeBytes, forMount);
  } finally {
    close(image.fd);
  }
  return resolve(path);
}
