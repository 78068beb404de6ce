/**
 * The death of a worker: which of its links are blamed for it, and which need another worker.
 *
 * Links with waiting reads get the event at once. The others, of which there may be hundreds, follow in batches, which
 * keeps the event loop responsive. Links that must be served alone come last: they may take the only idle worker.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { HeldLink } from "./links/held-link.ts";
import { roleOf } from "./policy/blame.ts";
import type { WorkerProcess } from "./worker-process.ts";

/** Idle links that get the event between two turns of the event loop. */
const BATCH = 8;

/** Attributes the death, takes the links from the worker and tells them. Returns whether one of them is blamed. */
export function handleDeath(worker: WorkerProcess, how: string): boolean {
  const nowMs = performance.now();
  const seen = worker.links.all
    .map((link) => ({
      link,
      busy: link.isBusy || link.number === worker.hungLink,
      waiting: link.isWaiting,
    }))
    .sort((a, b) => Number(b.waiting) - Number(a.waiting));
  const roles = seen.map((one) => roleOf(one, seen));
  seen.forEach(({ link, waiting }, at) => {
    const role = roles[at] ?? "unexplained";
    const answered = link.counters.requests;
    link.crashes.died({ nowMs, role, idle: !waiting, answered, hung: worker.hung, reason: how });
  });
  // A link that is being handed over, or that the worker has not taken yet, is the concern of the caller that does it.
  const lost = seen.filter(({ link }) => !link.isMoving && link.workerPid === worker.pid);
  for (const { link } of seen) worker.links.drop(link);
  const tell = ({ observer }: HeldLink): void => observer.orphaned(how, worker.silentMs, worker.hung);
  const last = lost.filter(({ link }) => link.crashes.mustBeAlone);
  const others = lost.filter((one) => !last.includes(one));
  for (const { link, waiting } of others) if (waiting) tell(link);
  const later = [...others.filter(({ waiting }) => !waiting), ...last];
  void tellInBatches(
    later.map(({ link }) => link),
    tell,
  );
  return roles.some((role) => role === "busy" || role === "alone");
}

async function tellInBatches(links: readonly HeldLink[], tell: (link: HeldLink) => void): Promise<void> {
  for (const [at, link] of links.entries()) {
    if (at % BATCH === 0) await nextTurn();
    if (link.isServable && link.worker === undefined) tell(link);
  }
}
