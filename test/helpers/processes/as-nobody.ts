/** System calls as another user, for tests of the credentials that the kernel reports of a peer. */

const NOBODY = 65_534;

/** Whether this process can change its user. Without root such tests are skipped. */
export const canBeNobody: boolean = process.geteuid?.() === 0;

/** Runs `act` as user 65534. Synchronous only: the whole process is that user meanwhile. */
export function asNobody<T>(act: () => T): T {
  process.seteuid?.(NOBODY);
  try {
    return act();
  } finally {
    process.seteuid?.(0);
  }
}
