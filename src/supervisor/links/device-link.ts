/**
 * One link of a device: one object per link generation. LinkSet holds the current one of each link index.
 *
 * It receives the events of the link's server and reports to the device. A link dies once, at the first sign: its
 * worker's exit, the worker's message, a hang-up of the kernel end, or LINK_DEAD. Later signs only add to the cause.
 */
import { isHungUp, SHUT_RDWR, shutdown } from "../../sys/libc/sockets.ts";
import { type Watch, watchHangUp } from "../../sys/watch.ts";
import type { LinkEnd } from "../../worker-protocol/link-end.ts";
import type { LinkObserver, OpenLink, Takeover } from "../ports.ts";
import type { Changes } from "./changes.ts";
import { deathOfLink, deathOfWorker, type LinkDeath, WITNESS, type Witness } from "./link-death.ts";

/**
 * When the kernel disconnects a device it sends a disconnect request and shuts its end down at once, so a hang-up alone
 * may be a death or an ordinary end. The worker has this time to read what came before and to report which it is.
 */
const HANG_UP_GRACE_MS = 200;

/** Receives the events of a device's links. */
export interface LinkListener {
  /** A live link has died. */
  lost(death: LinkDeath): void;
  /** A live link has lost its worker. */
  orphaned(death: LinkDeath): void;
  /** The cause of a death that was reported already is better known. */
  explained(death: LinkDeath): void;
  /** A link was handed from one living worker to another; reads stood still for `stallMs`. */
  moved(workerPid: number, stallMs: number): void;
  /** The kernel has disconnected the device. */
  disconnected(): void;
  readErrors(message: string, count: number): void;
  /** `exactness` of a link may have changed. */
  exactness(): void;
  /** The image's identity has another modification time now. */
  repinned(): void;
}

export interface LinkDescription {
  readonly index: number;
  readonly state: "up" | "down";
  readonly workerPid: number;
  readonly generation: number;
}

export class DeviceLink implements LinkObserver {
  readonly index: number;
  readonly generation: number;
  readonly #listener: LinkListener;
  readonly #changes: Changes;
  /** Messages of the server that came before the link was in its set. */
  readonly #early: Array<() => void> = [];
  #opened: { readonly link: OpenLink; readonly watch: Watch } | undefined;
  #isAlive = true;
  /** A worker serves it. Not valid once the link is dead. */
  #isServed = true;
  /** It is being given to another worker. */
  #isMoving = false;
  #hasRequest = false;
  #hasFailedSource = false;
  /** It was replaced, or its device is released. */
  #isRetired = false;

  constructor(index: number, generation: number, listener: LinkListener, changes: Changes) {
    this.index = index;
    this.generation = generation;
    this.#listener = listener;
    this.#changes = changes;
  }

  /** The server has opened it. */
  opened(link: OpenLink): void {
    const watch = watchHangUp(link.kernelFd, () => {
      const lose = (): void => this.lose("the link's socket was hung up", WITNESS.kernel);
      setTimeout(lose, HANG_UP_GRACE_MS).unref();
    });
    this.#opened = { link, watch };
  }

  /** Delivers the events that came before the link was in its set. */
  deliverEarly(): void {
    for (const deliver of this.#early.splice(0)) deliver();
  }

  /** The link as its server keeps it; only after `opened`. */
  get link(): OpenLink {
    if (this.#opened === undefined) throw new Error("cannot use a link before it is open");
    return this.#opened.link;
  }

  get isAlive(): boolean {
    return this.#isAlive && !this.#isRetired;
  }

  /** Alive, and without a worker. */
  get isOrphaned(): boolean {
    return this.isAlive && !this.#isServed;
  }

  /** Whether a request has come over it: only then does the kernel surely have its socket. */
  get hasRequest(): boolean {
    return this.#hasRequest;
  }

  /** Whether a worker cut it because a file failed inside a reply. */
  get hasFailedSource(): boolean {
    return this.#hasFailedSource;
  }

  describe(): LinkDescription {
    return {
      index: this.index,
      state: this.#isAlive && this.#isServed && !this.#isMoving ? "up" : "down",
      workerPid: this.link.workerPid,
      generation: this.generation,
    };
  }

  /** A link that was found: whether a request has come over it before is known to its server. */
  recallRequests(): void {
    this.#hasRequest = this.link.isUsed;
  }

  /**
   * Has the orphaned link taken over by another worker. Undefined when the link died meanwhile or was replaced. If the
   * takeover is put off, `waiting` is called with the reason. @throws the signal's reason
   */
  async takeOver(signal: AbortSignal, waiting: (why: string) => void): Promise<Takeover | undefined> {
    const { link } = this;
    // The death of the next worker is reported from here on.
    this.#isServed = true;
    this.#isMoving = true;
    let taken: Takeover;
    try {
      const isDead = (): boolean => !this.isAlive;
      taken = await this.#changes.until(isDead, signal, (alive) => link.takeOver(alive, waiting));
    } catch (error) {
      // Its socket has died: it cannot be taken over any more, and its replacement must not wait for that.
      if (!this.isAlive) return undefined;
      this.#isServed = false;
      throw error;
    } finally {
      this.#isMoving = false;
    }
    if (!this.isAlive) return undefined;
    if (!taken.safe) this.lose(`taking over was not safe: ${taken.why}`, WITNESS.kernel);
    return taken;
  }

  /** Declares the link dead, or adds to the cause of its death. */
  lose(cause: string, witness: Witness): void {
    if (this.#isRetired) return;
    if (!this.#isAlive) return this.#listener.explained(deathOfLink(cause, witness));
    this.#isAlive = false;
    this.#opened?.watch.close();
    this.#listener.lost(deathOfLink(cause, witness));
    this.#changes.notify();
  }

  /** Checks the kernel end, for deaths that no message reports. */
  check(cause: string): void {
    if (this.#isAlive && isHungUp(this.link.kernelFd)) this.lose(cause, WITNESS.kernel);
  }

  /** Makes the socket dead in the kernel, too. Harmless if it is. */
  shutDown(): void {
    shutdown(this.link.kernelFd, SHUT_RDWR);
  }

  /** Closes the link, but not its kernel end, which is returned. Nothing is reported from here on. */
  retire(): number {
    this.#isRetired = true;
    this.#opened?.watch.close();
    this.link.close();
    return this.link.kernelFd;
  }

  firstRequest(): void {
    if (this.#isEarly(() => this.firstRequest()) || this.#isRetired) return;
    this.#hasRequest = true;
    this.#changes.notify();
  }

  orphaned(cause: string, silentMs: number, hung = false): void {
    if (this.#isEarly(() => this.orphaned(cause, silentMs, hung)) || !this.isAlive) return;
    this.#isServed = false;
    this.#listener.orphaned(deathOfWorker(cause, silentMs, hung));
  }

  ended(cause: string, end: LinkEnd | undefined): void {
    if (this.#isEarly(() => this.ended(cause, end)) || this.#isRetired) return;
    if (end?.kind === "disconnect") {
      this.#isAlive = false;
      this.#changes.notify();
      this.#listener.disconnected();
      return;
    }
    if (end?.kind === "source-error") this.#hasFailedSource = true;
    this.lose(cause, end === undefined ? WITNESS.exit : WITNESS.worker);
  }

  moved(workerPid: number, stallMs: number): void {
    this.#listener.moved(workerPid, stallMs);
  }

  readErrors(message: string, count: number): void {
    this.#listener.readErrors(message, count);
  }

  exactness(): void {
    this.#listener.exactness();
  }

  repinned(): void {
    this.#listener.repinned();
  }

  #isEarly(deliver: () => void): boolean {
    if (this.#opened !== undefined) return false;
    this.#early.push(deliver);
    return true;
  }
}
