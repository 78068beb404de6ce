/**
 * Links of which one waits for the other: the image of a device lies on another device that the pool serves.
 *
 * A worker that serves both would wait in a read for an answer of its own, until it is killed because it hangs. So the
 * pool gives such links to different workers. Pure functions; most pools have no such links, which is looked at first.
 */

/** A link, as far as stacking is concerned: of HeldLink. */
export interface StackedLink {
  readonly request: {
    /** Undefined until the kernel has given one: then nothing lies on the device. */
    readonly deviceIndex: () => number | undefined;
    /** The nbd devices that the device's image lies on, without those below them. */
    readonly below: readonly number[];
  };
}

/** Tells of each link whether it waits for this one or this one for it. `links`: all of the pool. */
export function entangledWith(
  link: StackedLink,
  links: Iterable<StackedLink>,
): (other: StackedLink) => boolean {
  const all = new Set([...links, link]);
  if (!isStacked(all)) return () => false;
  const below = new Map([...all].map((one) => [one, allBelow(one, all)]));
  const lies = (upper: StackedLink, lower: StackedLink): boolean =>
    below.get(upper)?.has(lower.request.deviceIndex() ?? -1) === true;
  return (other) => lies(link, other) || lies(other, link);
}

/** How many workers a read needs at most, from the highest device down to the lowest. */
export function levelsOf(links: Iterable<StackedLink>): number {
  const all = new Set(links);
  if (!isStacked(all)) return 1;
  return 1 + Math.max(...[...all].map((link) => allBelow(link, all).size));
}

/** The same links, those of lower devices before those that lie on them. */
export function lowestFirst<T extends StackedLink>(links: Iterable<T>): T[] {
  const all = new Set(links);
  if (!isStacked(all)) return [...all];
  const below = new Map([...all].map((link) => [link, allBelow(link, all).size]));
  return [...all].sort((a, b) => (below.get(a) ?? 0) - (below.get(b) ?? 0));
}

const isStacked = (links: ReadonlySet<StackedLink>): boolean =>
  [...links].some(({ request }) => request.below.length > 0);

/** The indexes of all devices below a link's image, one on another. */
function allBelow(link: StackedLink, all: ReadonlySet<StackedLink>): ReadonlySet<number> {
  const found = new Set(link.request.below);
  // A set may grow while it is walked.
  for (const index of found) {
    for (const { request } of all) {
      if (request.deviceIndex() === index) for (const lower of request.below) found.add(lower);
    }
  }
  return found;
}
