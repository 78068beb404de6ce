/**
 * Waiting with a timeout and an abort signal. Used by the supervisor and the pool.
 *
 * `AbortSignal.any` with `AbortSignal.timeout` is not used: Node 20 holds the sources of a composite signal weakly, so
 * that after a garbage collection the timeout may never fire. Here the timer holds the controller.
 */

/**
 * Calls `wait` with a signal that aborts when `outer` does, after `deadlineMs` (reason: a TimeoutError), or when `wait`
 * has settled, which ends what it may have left running. The timer does not keep the process alive.
 */
export async function withDeadline<T>(
  deadlineMs: number,
  outer: AbortSignal,
  wait: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const follow = (): void => controller.abort(outer.reason);
  const timer = setTimeout(
    () => controller.abort(new DOMException("the deadline has passed", "TimeoutError")),
    deadlineMs,
  ).unref();
  if (outer.aborted) follow();
  else outer.addEventListener("abort", follow, { once: true });
  try {
    return await wait(controller.signal);
  } finally {
    clearTimeout(timer);
    outer.removeEventListener("abort", follow);
    controller.abort(new DOMException("the wait has ended", "AbortError"));
  }
}
