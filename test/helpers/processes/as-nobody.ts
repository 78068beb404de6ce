/** System calls as another user, for what the kernel says of who listens or connects. */

const NOBODY = 65_534;

/** Whether we can be somebody else for a moment: whoever is not root leaves such tests out. */
export const canBeNobody: boolean = process.geteuid?.() === 0;

/** Runs `act` as user 65534. It must be over when it returns: the whole process is that user meanwhile. */
export function asNobody<T>(act: () => T): T {
  process.seteuid?.(NOBODY);
  try {
    return act();
  } finally {
    process.seteuid?.(0);
  }
}
