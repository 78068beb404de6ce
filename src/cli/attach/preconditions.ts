/**
 * The checks before a manager is started, so that a command without the rights leaves no daemon behind.
 *
 * Used by most commands. Loads nothing but the errors; the manager checks again.
 */
import { rootRequired } from "../../errors.ts";

/** `why`: what root alone may do; see rootRequired. @throws ErofsNbdError ERR_PERMISSION */
export function requireRoot(why: string): void {
  if (process.geteuid?.() !== 0) throw rootRequired(why);
}
