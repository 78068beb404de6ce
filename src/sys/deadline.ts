/**
 * Waiting with a limit: for as long as some other signal allows, and not longer than a time.
 *
 * Used wherever a supervisor or the pool waits for somebody. Not `AbortSignal.any` over `AbortSignal.timeout`: Node 20
 * holds the sources of a composite signal weakly, so that after a garbage collection the time never comes and the
 * waiting never ends. Here the timer holds the controller.
 */

/**
 * Calls `wait` with a signal that aborts when `outer` does, or `deadlineMs` from now (reason: a TimeoutError), or when
 * `wait` is over: what it left behind may end then. The timer keeps no process alive.
 */
export async function withDeadline<T>(
  deadlineMs: number,
  outer: AbortSignal,
  wait: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const follow = (): void => controller.abort(outer.reason);
  const timer = setTimeout(
    () => controller.abort(new DOMException("The time is over", "TimeoutError")),
    deadlineMs,
  ).unref();
  if (outer.aborted) follow();
  else outer.addEventListener("abort", follow, { once: true });
  try {
    return await wait(controller.signal);
  } finally {
    clearTimeout(timer);
    outer.removeEventListener("abort", follow);
    controller.abort(new DOMException("The waiting is over", "AbortError"));
  }
}
