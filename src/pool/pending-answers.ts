/**
 * The answers that a worker owes for links that are being given to it or taken from it.
 *
 * There is one deadline for all of them, counted from the last message about any of these links: a worker that takes
 * hundreds of links may be slow with the last one, but it has to make progress. The deadline is counted in short steps,
 * so that time in which this process did not run counts as one step at most: it would blame a worker whose answers
 * have arrived and were not read yet.
 */

/** Steps of the deadline. */
const STEPS = 10;

export class PendingAnswers {
  readonly #deadlineMs: number;
  readonly #overdue: (silentMs: number) => void;
  readonly #byLink = new Map<number, (done: boolean) => void>();
  #timer: NodeJS.Timeout | undefined;
  #progressAtMs = 0;
  /** Steps that have ended since the last progress. The first of them may have begun before it. */
  #silentSteps = 0;
  #hasEnded = false;

  /** `overdue` is called when the worker was silent for `deadlineMs` while an answer was pending. */
  constructor(deadlineMs: number, overdue: (silentMs: number) => void) {
    this.#deadlineMs = deadlineMs;
    this.#overdue = overdue;
  }

  has(link: number): boolean {
    return this.#byLink.has(link);
  }

  /** Call before the request is sent: the channel of a hanging worker may be full. `forget` must follow. */
  expect(link: number): Promise<boolean> {
    if (this.#byLink.size === 0) this.#progressed();
    this.#timer ??= this.#startStep();
    return new Promise((resolve) => this.#byLink.set(link, resolve));
  }

  forget(link: number): void {
    this.#byLink.delete(link);
  }

  /** The worker has sent a message about this link. */
  noteProgress(link: number): void {
    if (this.#byLink.has(link)) this.#progressed();
  }

  settle(link: number, done: boolean): void {
    this.#byLink.get(link)?.(done);
  }

  /** The worker is dead: every pending answer is "no". */
  end(): void {
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    for (const settle of [...this.#byLink.values()]) settle(false);
  }

  #progressed(): void {
    this.#progressAtMs = performance.now();
    this.#silentSteps = 0;
  }

  #startStep(): NodeJS.Timeout {
    return setTimeout(() => this.#endStep(), this.#deadlineMs / STEPS);
  }

  #endStep(): void {
    this.#timer = undefined;
    if (this.#hasEnded || this.#byLink.size === 0) return;
    this.#silentSteps += 1;
    if (this.#silentSteps > STEPS) this.#overdue(performance.now() - this.#progressAtMs);
    else this.#timer = this.#startStep();
  }
}
