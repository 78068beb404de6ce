/**
 * What is checked before a manager is started: a bad path or a missing right must not leave a daemon behind.
 *
 * The manager checks all of it again, on the descriptor that it is handed.
 */
import { ErofsNbdError } from "../errors.ts";

export { openChecked } from "../manager/image-inspection.ts";

/** `act` follows «Cannot ». @throws ErofsNbdError ERR_PERMISSION */
export function requireRoot(act: string): void {
  if (process.geteuid?.() === 0) return;
  throw new ErofsNbdError("ERR_PERMISSION", `Cannot ${act}: only root may`, {
    hint: "run it with sudo; the kernel wants CAP_SYS_ADMIN for this",
  });
}
