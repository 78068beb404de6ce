/**
 * The pump: one epoll instance for all sockets of a process, which wakes the read-serving loop. libuv watches only the
 * epoll descriptor.
 *
 * After a wake-up the pump stays in plain system calls while there is traffic, and lingers in a blocking `epoll_wait`
 * when there is none: returning through libuv costs more than a small read. It returns to the event loop, which runs
 * timers, the control channel and asynchronous sources, when the linger ends, when a descriptor of the event loop (such
 * as the control channel) is ready, or when its time slice is over.
 */
import { Epoll } from "../sys/epoll.ts";
import { loopClock } from "../sys/loop-clock.ts";
import { type Watch, watchReadable } from "../sys/watch.ts";

/** Something with a socket in the pump. */
export interface Pollable {
  /** `events` are epoll's bits. Must not throw and must not block. */
  onEvents(events: number): void;
}

/** Work of the event loop waits at most this long while sockets are busy. */
const SLICE_MS = 20;
/**
 * How long the pump waits in place when there is no traffic. Longer than a timer tick of any usual kernel: a shorter
 * wait arms a timer of its own each time, which cost a third of the CPU time at depth 1 in a virtual machine, and a
 * quarter of the rate. Signals and descriptors of the event loop end the wait early.
 */
const LINGER_MS = 12;
/** The poll token of descriptors that belong to the event loop. */
const EVENT_LOOP = 0;

export class Pump {
  readonly #epoll = new Epoll();
  /** By poll token. */
  readonly #pollables: (Pollable | undefined)[] = [undefined];
  readonly #free: number[] = [];
  readonly #watch: Watch;
  #asynchronous = 0;

  constructor() {
    this.#watch = watchReadable(this.#epoll.fd, () => this.#run(), { inPlace: true });
  }

  /** Adds a socket and returns its poll token. @throws SystemError */
  add(fd: number, interest: number, pollable: Pollable): number {
    const token = this.#free.pop() ?? this.#pollables.length;
    this.#epoll.add(fd, interest, token);
    this.#pollables[token] = pollable;
    return token;
  }

  modify(fd: number, interest: number, token: number): void {
    this.#epoll.modify(fd, interest, token);
  }

  remove(fd: number, token: number): void {
    this.#epoll.remove(fd);
    this.#pollables[token] = undefined;
    // Not at once: an event of this round, meant for the former owner, must not reach the next one.
    setImmediate(() => this.#free.push(token));
  }

  /** Returns to the event loop at once whenever this descriptor is ready. Closing the descriptor ends that. */
  yieldTo(fd: number, interest: number): void {
    this.#epoll.add(fd, interest, EVENT_LOOP);
  }

  /** A read has begun that the event loop completes. While there are any, the pump does not linger. */
  asynchronousStarted(): void {
    this.#asynchronous += 1;
    // Reads begin outside a callback scope: this makes the event loop turn and settle promises.
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
      // koffi would swallow the error. Thrown here it ends the process, as any uncaught error does.
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
      let mustReturn = false;
      for (let index = 0; index < count; index += 1) {
        const token = epoll.tokenAt(index);
        if (token === EVENT_LOOP) mustReturn = true;
        else this.#pollables[token]?.onEvents(epoll.eventsAt(index));
      }
      // The time of the last reply or of the wake-up is exact enough.
      if (mustReturn || loopClock.nowMs > sliceEnd) return;
      count = epoll.wait(this.#asynchronous === 0 ? LINGER_MS : 0);
      loopClock.read();
    }
  }
}
