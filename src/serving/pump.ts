/**
 * What wakes the read-serving loop: one epoll instance for all sockets of a process, libuv watching only that.
 *
 * After a wake-up the pump stays in plain system calls for as long as there is traffic, and lingers a moment in
 * a blocking `epoll_wait` when it runs dry: coming back through libuv costs more than a small read does. It
 * returns to the event loop, where timers, the control channel and asynchronous sources live, when the linger
 * ends, when a watched foreign descriptor (the control channel, say) is ready, or when its time slice is over.
 */
import { Epoll } from "../sys/epoll.ts";
import { loopClock } from "../sys/loop-clock.ts";
import { type Watch, watchReadable } from "../sys/watch.ts";

/** Something with a socket in the pump. */
export interface Pollable {
  /** `events` are epoll's bits. Must not throw and must not block. */
  onEvents(events: number): void;
}

/** Event loop work waits at most this long behind a busy socket. */
const SLICE_MS = 20;
/**
 * How long an idle moment is spent waiting in place. Longer than a timer tick of any usual kernel: a shorter wait
 * arms a timer of its own each time, which in a virtual machine cost a third of all CPU time at depth 1 (and a
 * quarter of the rate). Signals and foreign descriptors end it early.
 */
const LINGER_MS = 12;
/** The slot of descriptors that belong to the event loop. */
const FOREIGN = 0;

export class Pump {
  readonly #epoll = new Epoll();
  readonly #slots: (Pollable | undefined)[] = [undefined];
  readonly #free: number[] = [];
  readonly #watch: Watch;
  #asynchronous = 0;

  constructor() {
    this.#watch = watchReadable(this.#epoll.fd, () => this.#run(), { inPlace: true });
  }

  /** Adds a socket and returns its slot. @throws SystemError */
  add(fd: number, interest: number, pollable: Pollable): number {
    const slot = this.#free.pop() ?? this.#slots.length;
    this.#epoll.add(fd, interest, slot);
    this.#slots[slot] = pollable;
    return slot;
  }

  modify(fd: number, interest: number, slot: number): void {
    this.#epoll.modify(fd, interest, slot);
  }

  remove(fd: number, slot: number): void {
    this.#epoll.remove(fd);
    this.#slots[slot] = undefined;
    // A reused slot must not receive an event of this round that was meant for its former owner.
    setImmediate(() => this.#free.push(slot));
  }

  /** A descriptor that libuv serves: when it is ready the pump makes way at once. Closing it is the end of that. */
  yieldTo(fd: number, interest: number): void {
    this.#epoll.add(fd, interest, FOREIGN);
  }

  /** Tells of reads that the event loop completes: while there are any the pump does not linger. */
  asynchronousStarted(): void {
    this.#asynchronous += 1;
    // The read was started outside a callback scope: this makes the event loop turn and settle promises.
    setImmediate(() => {});
  }

  asynchronousEnded(): void {
    this.#asynchronous -= 1;
  }

  unref(): void {
    this.#watch.unref();
  }

  close(): void {
    this.#watch.close();
    this.#epoll.close();
  }

  #run(): void {
    try {
      this.#turn();
    } catch (error) {
      // koffi would swallow it; let it end the process as any uncaught error does.
      setImmediate(() => {
        throw error;
      });
    }
  }

  #turn(): void {
    const epoll = this.#epoll;
    const sliceEnd = loopClock.read() + SLICE_MS;
    let count = epoll.wait(0);
    while (count > 0) {
      let makeWay = false;
      for (let index = 0; index < count; index += 1) {
        const slot = epoll.tokenAt(index);
        if (slot === FOREIGN) makeWay = true;
        else this.#slots[slot]?.onEvents(epoll.eventsAt(index));
      }
      // As of the last reply, or of the wake-up: near enough.
      if (makeWay || loopClock.nowMs > sliceEnd) return;
      count = epoll.wait(this.#asynchronous === 0 ? LINGER_MS : 0);
      loopClock.read();
    }
  }
}
