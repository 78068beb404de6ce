/**
 * How much more often than usual things are done: `npm run soak` sets it, for runs longer than `npm test` has time for.
 */

/** 1 in an ordinary run. */
export const SOAK: number = Math.max(1, Math.floor(Number(process.env["EROFS_NBD_SOAK"] ?? 1)) || 1);

/** A count of an ordinary run, as often as this one wants it. */
export function many(count: number): number {
  return count * SOAK;
}
