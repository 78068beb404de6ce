/**
 * Counts with their nouns, for logs, errors and the command line. Imports nothing.
 */

/** "1 read", "2 reads". */
export function plural(count: number, one: string, many: string = `${one}s`): string {
  return `${count} ${nounFor(count, one, many)}`;
}

/** "read", "reads". */
export function nounFor(count: number, one: string, many: string = `${one}s`): string {
  return count === 1 ? one : many;
}
