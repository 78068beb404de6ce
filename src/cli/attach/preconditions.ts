/**
 * What is checked before a manager is started, beside the image: a missing right must not leave a daemon behind.
 *
 * The manager checks it again. Most commands need no more than this, so nothing is loaded for it.
 */
import { ErofsNbdError } from "../../errors.ts";

/** `act` follows «cannot ». @throws ErofsNbdError ERR_PERMISSION */
export function requireRoot(act: string): void {
  if (process.geteuid?.() === 0) return;
  throw new ErofsNbdError("ERR_PERMISSION", `cannot ${act}: only root may`, {
    hint: "run it with sudo; the kernel wants CAP_SYS_ADMIN for this",
  });
}
