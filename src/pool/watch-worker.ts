/**
 * One look at one worker, made for each at every tick of the pool: its pings, the progress of its links, their leases.
 *
 * A worker that hangs is killed here, and nowhere else. One that is only silent, because it is inside a read that may
 * still take its time, is noted as such: nothing is asked of it meanwhile.
 */
import { grownPatience, type HangWatch, TICK_INTERVAL_MS, type WatchedLink } from "./policy/hang-watch.ts";
import type { WorkerProcess } from "./worker-process.ts";

/** Two pings in a row without an answer. */
const SILENT_MS = 2.5 * TICK_INTERVAL_MS;

/** `watch` is undefined until the worker is ready. */
export function watchWorker(worker: WorkerProcess, watch: HangWatch | undefined, nowMs: number): void {
  const stuck = worker.wasReady ? undefined : worker.startWatch.look(nowMs);
  if (stuck !== undefined) worker.kill(`worker ${worker.pid} did not get ready: it ${stuck}`);
  if (watch === undefined || !worker.isReady) return;
  const links = worker.links.all.map(
    (link): WatchedLink => ({
      link: link.number,
      answered: link.counters.requests,
      // A link that the worker was given and does not serve yet waits, too: its source is being opened.
      waiting: !link.hasEnded && (link.isWaiting || worker.links.isAskedAbout(link)),
      patienceMs: grownPatience(link.request.hangTimeoutMs, link.crashes.hangsWithoutProgress),
      asynchronous: link.request.image.spec.type === "module",
      busy: link.isBusy,
    }),
  );
  for (const { link } of links) worker.links.get(link)?.noteAges(nowMs);
  const verdict = watch.tick({ nowMs, pongs: worker.pongs, links });
  worker.noteSilence(watch.silentMs > SILENT_MS);
  if (verdict !== undefined) worker.kill(verdict.reason, verdict);
  else worker.ping();
  worker.links.renewLeases();
  if (!worker.isSilent) worker.links.adaptPipes(nowMs);
  for (const { link, answered, waiting } of links)
    worker.links.get(link)?.crashes.served({ nowMs, answered, waiting });
}
