/**
 * Which worker takes a link, and which links to move to another worker so that suspects and innocents part.
 *
 * A suspect is a link that may crash its worker (blame.ts), an innocent is any other. Pure functions, used by the pool.
 */

/** Which workers are acceptable: any, only those without innocent links, or only those without any link. */
export type PlacementPolicy = "any" | "suspects-only" | "alone";

/** A worker that could take a link. */
export interface Candidate {
  readonly links: number;
  readonly suspects: number;
  readonly innocents: number;
  /** Links that must be served alone (CrashRecord). No other link is given to a worker that has one. */
  readonly isolated?: number;
  /** It does not answer now: it is inside the code of one of its links, or stopped. */
  readonly isSilent?: boolean;
  /** One of its links waits for the link, or the link for it (stacking.ts). */
  readonly isEntangled?: boolean;
}

/** Workers beyond the set that are started for links that must be alone. Beyond that such links share workers. */
export const MAX_ISOLATED = 4;

/**
 * The best of the ready workers for a link. Suspects and innocents are kept apart if possible; beyond that the worker
 * with the fewest links is best. A link that hung gets a worker for itself. A worker that is silent, or that would wait
 * for itself with the link, is not asked.
 * Undefined when no worker is acceptable: the link then waits for a fresh one rather than for a hang, or to endanger
 * others.
 */
export function place<T extends Candidate>(
  candidates: readonly T[],
  link: { readonly isSuspect: boolean; readonly placement: PlacementPolicy },
): T | undefined {
  const isMixing = ({ suspects, innocents }: T): boolean => (link.isSuspect ? innocents : suspects) > 0;
  const heard = candidates.filter(({ isSilent, isEntangled }) => !isSilent && !isEntangled);
  const isolating = candidates.filter(({ isolated = 0 }) => isolated > 0);
  const isAllowed = ({ links, innocents, isolated = 0 }: T): boolean => {
    if (link.placement !== "alone") return isolated === 0 && (link.placement === "any" || innocents === 0);
    return isolating.length < MAX_ISOLATED ? links === 0 : isolated === links && links > 0;
  };
  const allowed = heard.filter(isAllowed);
  return [...allowed].sort((a, b) => Number(isMixing(a)) - Number(isMixing(b)) || a.links - b.links)[0];
}

/** A ready worker and its links. */
export interface Occupied<W> {
  readonly worker: W;
  readonly links: readonly { readonly link: number; readonly suspicion: number }[];
}

export interface PlannedMove<W> {
  readonly link: number;
  readonly from: W;
  readonly to: W;
}

/**
 * Which links to hand over when a worker has become ready. Suspects go to workers without innocents, evenly spread; if
 * there is no such worker, innocents go to workers without suspects. If several suspects share a worker and another
 * one is empty, the worst suspect goes there alone, so that the next crash identifies it. The plan is stable: it is
 * empty until something dies again.
 */
export function shouldMove<W>(workers: readonly Occupied<W>[]): PlannedMove<W>[] {
  const split = workers.map(splitLinks);
  const mixed = split.filter(({ suspects, innocents }) => suspects.length > 0 && innocents.length > 0);
  const noInnocents = split.filter(({ innocents }) => innocents.length === 0);
  const noSuspects = split.filter(({ suspects }) => suspects.length === 0);
  if (mixed.length > 0) {
    const targets = noInnocents.length > 0 ? noInnocents : noSuspects;
    const places = targets.map((target) => ({ to: target.worker, taken: target.size }));
    return mixed.flatMap(({ worker: from, suspects, innocents }) =>
      (targets === noInnocents ? suspects : innocents).flatMap(({ link }) => {
        const target = places.sort((a, b) => a.taken - b.taken)[0];
        if (target === undefined) return [];
        target.taken += 1;
        return [{ link, from, to: target.to }];
      }),
    );
  }
  const crowded = split.find(({ suspects }) => suspects.length > 1);
  const empty = noInnocents.find(({ size }) => size === 0);
  const worst = crowded?.suspects[0];
  if (crowded === undefined || worst === undefined || empty === undefined) return [];
  return [{ link: worst.link, from: crowded.worker, to: empty.worker }];
}

type Links = Occupied<unknown>["links"];

/** Suspects are sorted, the worst first. */
function splitLinks<W>({ worker, links }: Occupied<W>): {
  worker: W;
  suspects: Links;
  innocents: Links;
  size: number;
} {
  const suspects = links.filter(({ suspicion }) => suspicion > 0).sort((a, b) => b.suspicion - a.suspicion);
  const innocents = links.filter(({ suspicion }) => suspicion <= 0);
  return { worker, suspects, innocents, size: links.length };
}
