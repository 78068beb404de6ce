/**
 * Planned handovers of links between living workers: for an upgrade, and to part suspects from innocents.
 */
import { ErofsNbdError } from "../errors.ts";
import type { HeldLink } from "./links/held-link.ts";
import { shouldMove } from "./policy/placement.ts";
import { entangledWith, lowestFirst } from "./policy/stacking.ts";
import type { WorkerProcess } from "./worker-process.ts";
import type { WorkerSet } from "./worker-set.ts";

/** What an upgrade has done. */
export interface Renewal {
  readonly workers: number;
  readonly links: number;
  readonly longestStallMs: number;
}

/**
 * Replaces every worker by a fresh one of the installed program. Links are handed over one by one; reads wait for
 * milliseconds. Links that must be served alone get fresh workers of their own. If the fresh workers do not become
 * ready, the old ones stay. `all`: the links of the pool. @throws ErofsNbdError ERR_WORKER
 */
export async function renewWorkers(workers: WorkerSet, all: ReadonlySet<HeldLink>): Promise<Renewal> {
  const old = workers.all;
  const alone = workers.isolatedCount;
  const fresh = await workers.startFresh().catch((error: Error) => {
    throw new ErofsNbdError("ERR_WORKER", `cannot replace the workers: ${error.message}`, {
      hint: "the old workers go on serving; the manager's log has the messages of the new ones",
    });
  });
  const plan = planMoves(fresh, alone, all);
  let longestStallMs = 0;
  let links = 0;
  const empty = async (worker: WorkerProcess): Promise<void> => {
    for (const link of worker.links.all) {
      const to = plan(link);
      if (to === undefined) continue;
      longestStallMs = Math.max(longestStallMs, (await moveLink(link, to)) ?? 0);
      links += 1;
    }
    if (worker.links.size === 0) workers.dismiss(worker);
  };
  // Side by side: one that is inside a long read hands its links over when that is answered, and holds up no other.
  await Promise.all(old.map(empty));
  return { workers: fresh.length, links, longestStallMs };
}

/**
 * Which of the fresh workers gets a link; undefined when none may. All are planned at once, the links of the lowest
 * devices first: where those of the upper ones were spread over all workers, none would be left for the lower one.
 */
function planMoves(
  fresh: readonly WorkerProcess[],
  alone: number,
  all: ReadonlySet<HeldLink>,
): (link: HeldLink) => WorkerProcess | undefined {
  const plan = new Map<HeldLink, WorkerProcess>();
  const linksOf = (worker: WorkerProcess): HeldLink[] =>
    [...plan].filter(([, to]) => to === worker).map(([link]) => link);
  const find = (link: HeldLink): WorkerProcess | undefined => {
    const known = plan.get(link);
    if (known?.isReady) return known;
    const isEntangled = entangledWith(link, all);
    const [to] = (link.crashes.mustBeAlone && alone > 0 ? fresh.slice(0, alone) : fresh.slice(alone))
      .map((worker) => ({ worker, links: linksOf(worker) }))
      .filter(({ worker, links }) => worker.isReady && !links.some(isEntangled))
      .sort((a, b) => a.links.length - b.links.length);
    if (to !== undefined) plan.set(link, to.worker);
    return to?.worker;
  };
  for (const link of lowestFirst(all)) find(link);
  return find;
}

/** Starts the handovers that part suspects from innocents; `failed` is called if one fails. */
export function separateSuspects(
  ready: readonly WorkerProcess[],
  all: ReadonlySet<HeldLink>,
  failed: (error: unknown) => void,
): void {
  // Nothing is asked of a worker that is inside a link's code. Links that must be alone are apart already.
  const taking = ready.filter(
    ({ isSilent, links }) => !isSilent && !links.all.some(({ crashes }) => crashes.mustBeAlone),
  );
  const occupied = taking.map((worker) => ({
    worker,
    links: worker.links.all.map(({ number, crashes }) => ({ link: number, suspicion: crashes.suspicion })),
  }));
  for (const { link, from, to } of shouldMove(occupied)) {
    const held = from.links.get(link);
    if (held === undefined || to.links.all.some(entangledWith(held, all))) continue;
    void moveLink(held, to).catch(failed);
  }
}

/** Returns how long the link's reads waited; undefined if the link was not handed over. */
async function moveLink(link: HeldLink, to: WorkerProcess): Promise<number | undefined> {
  const from = link.worker;
  if (from === undefined || from === to || link.isMoving || from.links.isAskedAbout(link)) return undefined;
  return link.whileMoving(async () => {
    const startedAtMs = performance.now();
    const released = await from.links.release(link);
    if (!link.isServable) return undefined;
    const settlement = released ? await link.settle() : undefined;
    if (settlement?.safe === true && link.isOpen && (await to.links.serve(link))) {
      const stallMs = Math.round((performance.now() - startedAtMs) * 10) / 10;
      link.observer.moved(to.pid, stallMs);
      return stallMs;
    }
    const cause = `worker ${from.pid} could not hand its link to worker ${to.pid}`;
    if (link.isServable) link.observer.orphaned(cause, performance.now() - startedAtMs);
    return undefined;
  });
}
