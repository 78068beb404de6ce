/**
 * A signal that ends waiting: with any of some other signals, or after a time.
 *
 * Used wherever a supervisor or the pool waits for somebody with a limit. Not `AbortSignal.any` over
 * `AbortSignal.timeout`: Node 20 holds the sources of a composite signal weakly, so that after a garbage collection
 * the time never comes and the waiting never ends. Here the timer holds the controller.
 */

/** Aborts when one of `signals` does, or `deadlineMs` from now (reason: a TimeoutError). Its timer keeps no process alive. */
export function deadlineSignal(deadlineMs: number, ...signals: readonly AbortSignal[]): AbortSignal {
  const controller = new AbortController();
  const timer = setTimeout(
    () => controller.abort(new DOMException("The time is over", "TimeoutError")),
    deadlineMs,
  ).unref();
  for (const source of signals) {
    const follow = (): void => {
      clearTimeout(timer);
      controller.abort(source.reason);
    };
    if (source.aborted) follow();
    else source.addEventListener("abort", follow, { once: true, signal: controller.signal });
  }
  return controller.signal;
}
