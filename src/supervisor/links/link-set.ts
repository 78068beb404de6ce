/**
 * A device's links: which slots are alive, who serves them, and the descriptors that must outlive them.
 *
 * A slot dies once per generation, by whichever witness comes first: its worker's exit, the worker's word, a
 * hang-up of the kernel end, LINK_DEAD. The kernel end is kept open here while the kernel uses the socket and a
 * while longer: without it a fresh socket may be killed, or the old one freed under the kernel's receiver.
 */

import type { Exactness } from "../../source/exactness.ts";
import { close, isHungUp, SHUT_RDWR, shutdown } from "../../sys/libc.ts";
import { type Watch, watchHangUp } from "../../sys/watch.ts";
import { type LinkCounters, type LinkEnd, NO_COUNTERS } from "../../worker-protocol/link-end.ts";
import type { FoundLink, LinkObserver, LinkRequest, LinkServer, OpenLink, Takeover } from "../ports.ts";

/** How long an old kernel end stays open after RECONFIGURE has replaced its socket. */
const RETAIN_MS = 1000;

/**
 * A kernel that says goodbye shuts its end down in the same moment, so a hang-up alone may be a death or an ordinary
 * end: the worker, which reads what came before, is given this long to say which. Its exit or word ends the waiting.
 */
const HANG_UP_GRACE_MS = 200;

/** How sure a witness can be of the reason; a better one replaces a worse one's words. */
export const WITNESS = { kernel: 0, worker: 1, exit: 2 } as const;
export type Witness = (typeof WITNESS)[keyof typeof WITNESS];

export interface LinkSetEvents {
  /** A live link has died. */
  lost(cause: string, witness: Witness): void;
  /** A live link has lost its worker; reads on it have stood still for `silentMs` already. */
  orphaned(cause: string, silentMs: number, hung: boolean): void;
  /** A live link has been handed from one worker to another, by plan. */
  moved(workerPid: number, stallMs: number): void;
  /** More is known about a death that was reported already. */
  explained(cause: string, witness: Witness): void;
  /** The peer said goodbye: the kernel has disconnected the device. */
  disconnected(): void;
  /** A worker cut a link because a file failed inside a reply: no more `sendfile` on this device. */
  mustCopy(): void;
  readErrors(message: string, count: number): void;
  /** What `exactness` says may be new. */
  exactness(): void;
  /** The image's identity has another modification time now. */
  repinned(): void;
}

/** One slot's current link. */
interface Slot {
  readonly index: number;
  generation: number;
  link: OpenLink;
  watch: Watch;
  alive: boolean;
  /** A worker has it. Means nothing while it is not alive. */
  served: boolean;
  /** Another worker is being given it. */
  taking: boolean;
  requestSeen: boolean;
}

export interface LinkDescription {
  readonly index: number;
  readonly state: "up" | "down";
  readonly workerPid: number;
  readonly generation: number;
}

export class LinkSet {
  readonly #server: LinkServer;
  readonly #events: LinkSetEvents;
  readonly #slots: (Slot | undefined)[];
  /** What links of former generations have done. */
  readonly #past: LinkCounters = { ...NO_COUNTERS };
  readonly #pastLatencies: number[] = [];
  readonly #waiters = new Set<() => void>();
  /** Kernel ends of links that were replaced; `used` where the kernel surely had the socket. */
  #retired: Array<{ readonly fd: number; readonly used: boolean }> = [];
  #released = false;

  /** What links that are no more have done; a later manager begins with it. */
  get past(): Readonly<LinkCounters> {
    return this.#past;
  }

  remember(past: Readonly<LinkCounters>): void {
    addTo(this.#past, past);
  }

  /** All `count` slots are dead until they are replaced for the first time. */
  constructor(count: number, server: LinkServer, events: LinkSetEvents) {
    this.#slots = Array<Slot | undefined>(count).fill(undefined);
    this.#server = server;
    this.#events = events;
  }

  get deadSlots(): number[] {
    return [...this.#slots.keys()].filter((index) => this.#slots[index]?.alive !== true);
  }

  /** Live links that no worker has. */
  get orphanedSlots(): number[] {
    return [...this.#slots.keys()].filter((index) => {
      const slot = this.#slots[index];
      return slot?.alive === true && !slot.served;
    });
  }

  isAlive(index: number): boolean {
    return this.#slots[index]?.alive === true;
  }

  get counters(): LinkCounters {
    const total = { ...this.#past };
    for (const slot of this.#filled) addTo(total, slot.link.counters);
    return total;
  }

  /** Adds what the requests of all its links took, former ones too, to a total; see OpenLink. */
  addLatenciesTo(total: number[]): void {
    this.#pastLatencies.forEach((value, at) => {
      total[at] = (total[at] ?? 0) + value;
    });
    for (const slot of this.#filled) slot.link.addLatenciesTo(total);
  }

  /** Whether nothing is unread, unanswered or unsent on any link. */
  get areQuiet(): boolean {
    return this.#filled.every((slot) => slot.alive && slot.link.isQuiet);
  }

  /** How exact the answers of all live links are. */
  get exactness(): readonly (Exactness | undefined)[] {
    return this.#filled.filter(({ alive }) => alive).map(({ link }) => link.exactness);
  }

  describe(): LinkDescription[] {
    return this.#filled.map(({ index, alive, served, taking, link, generation }) => ({
      index,
      state: alive && served && !taking ? "up" : "down",
      workerPid: link.workerPid,
      generation,
    }));
  }

  /** Gives a dead slot a new link and returns its kernel end, of which the kernel does not know yet. @throws ErofsNbdError ERR_WORKER */
  async replace(index: number, request: LinkRequest, signal: AbortSignal): Promise<number> {
    const slot = await this.#fill(index, request, signal);
    return slot.link.kernelFd;
  }

  /**
   * Puts a link that is served already into its slot. False when nothing shows that the kernel has its socket, as
   * when the manager died just before it was to hand that over: the caller replaces it.
   */
  async adopt(found: FoundLink, request: LinkRequest): Promise<boolean> {
    const slot = await this.#observed(found.slot, (observer) => found.open(request, observer));
    slot.requestSeen = slot.link.isUsed;
    return slot.requestSeen;
  }

  /** The kernel has these slots' sockets, whether a request comes soon or not: a later manager may rely on it. */
  confirm(indexes: readonly number[] = [...this.#slots.keys()]): void {
    for (const index of indexes) this.#slots[index]?.link.confirm();
  }

  /**
   * Has an orphaned slot's link taken over by another worker. False when it died meanwhile, or had to be given up: then
   * it is a dead slot. `waiting` is told why a takeover is put off. @throws the signal's reason
   */
  async takeOver(
    index: number,
    signal: AbortSignal,
    waiting: (why: string) => void,
  ): Promise<Takeover | undefined> {
    const slot = this.#slots[index];
    if (slot === undefined) return undefined;
    const { link } = slot;
    // From here on another death of a worker is told anew.
    slot.served = true;
    slot.taking = true;
    let taken: Takeover;
    try {
      taken = await this.#whileAlive(slot, signal, (alive) => link.takeOver(alive, waiting));
    } catch (error) {
      // Its socket has died: nobody can take it over any more, and a fresh one is not to wait for that.
      if (slot.link !== link || !slot.alive) return undefined;
      slot.served = false;
      throw error;
    } finally {
      if (slot.link === link) slot.taking = false;
    }
    if (slot.link !== link || !slot.alive) return undefined;
    if (!taken.safe) this.#lose(slot, link, `taking over was not safe: ${taken.why}`, WITNESS.kernel);
    return taken;
  }

  /** Works with a signal that aborts when the outer one does, or the slot dies. */
  async #whileAlive<T>(
    slot: Slot,
    outer: AbortSignal,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const controller = new AbortController();
    const look = (): void => {
      if (outer.aborted || !slot.alive) controller.abort(outer.reason);
    };
    this.#waiters.add(look);
    outer.addEventListener("abort", look, { once: true });
    look();
    try {
      return await work(controller.signal);
    } finally {
      this.#waiters.delete(look);
      outer.removeEventListener("abort", look);
    }
  }

  /** Shuts down the sockets of all live links: every one of them is about to be a dead one. */
  shutDownAll(): void {
    for (const slot of this.#filled) if (slot.alive) shutdown(slot.link.kernelFd, SHUT_RDWR);
  }

  /** Makes the sockets of dead slots surely dead in the kernel too. Harmless when they are. */
  shutDownDead(): void {
    for (const slot of this.#filled) if (!slot.alive) shutdown(slot.link.kernelFd, SHUT_RDWR);
  }

  /**
   * The kernel was offered the fresh sockets. When it has taken them, the old kernel ends may go once its receivers
   * have surely left them; when it has not, only those that it never used: the others wait for the next offer.
   */
  handedOver(taken: boolean): void {
    const going = this.#retired.filter(({ used }) => taken || !used);
    this.#retired = this.#retired.filter((one) => !going.includes(one));
    setTimeout(() => {
      for (const { fd } of going) close(fd);
    }, RETAIN_MS).unref();
  }

  /** Declares slots dead that no proof of life has come from, so that they can be replaced again. */
  condemn(indexes: readonly number[], cause: string): void {
    for (const index of indexes) {
      const slot = this.#slots[index];
      if (slot !== undefined) this.#lose(slot, slot.link, cause, WITNESS.kernel);
    }
  }

  /** Looks at every kernel end: a witness that needs nobody's message. */
  check(cause: string): void {
    for (const slot of this.#filled) {
      if (slot.alive && isHungUp(slot.link.kernelFd)) this.#lose(slot, slot.link, cause, WITNESS.kernel);
    }
  }

  /** Whether each of these slots has had a request on its present link; false when one of them died. */
  async requestsSeen(indexes: readonly number[], signal: AbortSignal): Promise<boolean> {
    const slots = indexes.map((index) => this.#slots[index]).filter((slot) => slot !== undefined);
    const generations = slots.map((slot) => slot.generation);
    for (;;) {
      if (slots.some((slot, at) => !slot.alive || slot.generation !== generations[at])) return false;
      if (slots.every((slot) => slot.requestSeen)) return true;
      if (signal.aborted) return false;
      await this.#changed(signal);
    }
  }

  /** Lets go of everything: links are closed, descriptors too, now or when it is safe. */
  release(): void {
    this.#released = true;
    for (const slot of this.#filled) {
      addTo(this.#past, slot.link.counters);
      slot.link.addLatenciesTo(this.#pastLatencies);
      this.#drop(slot);
    }
    this.#slots.fill(undefined);
    this.handedOver(true);
    this.#notify();
  }

  get #filled(): Slot[] {
    return this.#slots.filter((slot) => slot !== undefined);
  }

  async #fill(index: number, request: LinkRequest, signal: AbortSignal): Promise<Slot> {
    return this.#observed(index, (observer) => this.#server.openLink(request, observer, signal));
  }

  /** Opens a link and puts it into its slot; what is told of it meanwhile is told to the slot afterwards. */
  async #observed(
    index: number,
    open: (observer: LinkObserver) => OpenLink | Promise<OpenLink>,
  ): Promise<Slot> {
    const early: Array<(slot: Slot, link: OpenLink) => void> = [];
    let filled: { slot: Slot; link: OpenLink } | undefined;
    const tell = (what: (slot: Slot, link: OpenLink) => void): void => {
      if (filled === undefined) early.push(what);
      else what(filled.slot, filled.link);
    };
    const link = await open({
      firstRequest: () => tell((slot, of) => this.#seen(slot, of)),
      readErrors: (message, count) => this.#events.readErrors(message, count),
      exactness: () => this.#events.exactness(),
      repinned: () => this.#events.repinned(),
      orphaned: (cause, silentMs, hung = false) =>
        tell((slot, of) => this.#orphaned(slot, of, cause, silentMs, hung)),
      moved: (workerPid, stallMs) => this.#events.moved(workerPid, stallMs),
      ended: (cause, end) => tell((slot, of) => this.#ended(slot, of, cause, end)),
    });
    if (this.#released) {
      link.close();
      close(link.kernelFd);
      throw new Error("cannot use a new link: the device is released");
    }
    const slot = this.#install(index, link);
    filled = { slot, link };
    for (const what of early) what(slot, link);
    return slot;
  }

  #install(index: number, link: OpenLink): Slot {
    const old = this.#slots[index];
    const watch = watchHangUp(link.kernelFd, () => {
      const lose = (): void => this.#lose(slot, link, "the link's socket was hung up", WITNESS.kernel);
      setTimeout(lose, HANG_UP_GRACE_MS).unref();
    });
    const slot: Slot = old ?? {
      index,
      generation: 0,
      link,
      watch,
      alive: true,
      served: true,
      taking: false,
      requestSeen: false,
    };
    if (old !== undefined) {
      addTo(this.#past, old.link.counters);
      old.link.addLatenciesTo(this.#pastLatencies);
      this.#drop(old);
    }
    Object.assign(slot, {
      generation: slot.generation + 1,
      link,
      watch,
      alive: true,
      served: true,
      taking: false,
      requestSeen: false,
    });
    this.#slots[index] = slot;
    return slot;
  }

  /** Closes a link, but not its kernel end. */
  #drop({ link, watch, requestSeen }: Slot): void {
    watch.close();
    link.close();
    this.#retired.push({ fd: link.kernelFd, used: requestSeen });
  }

  #seen(slot: Slot, link: OpenLink): void {
    if (slot.link !== link) return;
    slot.requestSeen = true;
    this.#notify();
  }

  #orphaned(slot: Slot, link: OpenLink, cause: string, silentMs: number, hung: boolean): void {
    if (slot.link !== link || this.#released || !slot.alive) return;
    slot.served = false;
    this.#events.orphaned(cause, silentMs, hung);
  }

  #ended(slot: Slot, link: OpenLink, cause: string, end: LinkEnd | undefined): void {
    if (slot.link !== link || this.#released) return;
    if (end?.kind === "disconnect") {
      slot.alive = false;
      this.#notify();
      this.#events.disconnected();
      return;
    }
    if (end?.kind === "source-error") this.#events.mustCopy();
    this.#lose(slot, link, cause, end === undefined ? WITNESS.exit : WITNESS.worker);
  }

  #lose(slot: Slot, link: OpenLink, cause: string, witness: Witness): void {
    if (slot.link !== link || this.#released) return;
    if (!slot.alive) return this.#events.explained(cause, witness);
    slot.alive = false;
    slot.watch.close();
    this.#events.lost(cause, witness);
    this.#notify();
  }

  #notify(): void {
    for (const wake of [...this.#waiters]) wake();
  }

  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiters.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiters.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }
}

function addTo(total: LinkCounters, part: Readonly<LinkCounters>): void {
  total.requests += part.requests;
  total.readBytes += part.readBytes;
  total.readErrors += part.readErrors;
}
