/**
 * A connection to a manager that is restored when the manager is replaced or dies.
 *
 * Used by the library; all devices of a manager share one. Connects with the first request. Events are lost only while
 * no manager is running and until the next one is found; `found` marks the end of such a gap. Knows nothing about
 * devices.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import type { ControlClient } from "../control/client.ts";
import type { DeviceEvent, Method, Requests } from "../control/protocol.ts";
import { ErofsNbdError } from "../errors.ts";

export interface SessionEvents {
  event: (event: DeviceEvent) => void;
  /** The manager is gone; devices are served without it. */
  lost: () => void;
  /** The next manager is connected. */
  found: (managerPid: number) => void;
}

/** How a session connects to its manager. */
export interface ManagerFinder {
  /** For a request: the manager, started if none is running. */
  reach(): Promise<ControlClient>;
  /** The running manager; undefined if there is none. Starts none. */
  find(): Promise<ControlClient | undefined>;
  /** Whether a manager may be started without a request. */
  mayStart(): boolean;
}

/** Events between the start of a manager and the next poll are lost. */
const LOOK_AGAIN_MS = 100;
/** Guardian and systemd are faster than this. A user who stops a manager does not want another one at once. */
const PATIENCE_MS = 7500;

export class Session extends EventEmitter<SessionEvents> {
  readonly #finder: ManagerFinder;
  readonly #patienceMs: number;
  #client: Promise<ControlClient> | undefined;
  #closed = false;
  #isLooking = false;
  #lostAtMs = 0;

  /** `patienceMs`: how long to wait for another manager before one is started; for tests. */
  constructor(finder: ManagerFinder, patienceMs: number = PATIENCE_MS) {
    super();
    this.#finder = finder;
    this.#patienceMs = patienceMs;
  }

  /**
   * Sends a request; `imageFd` is sent with it and stays the caller's. @throws ControlError the manager's error;
   * ErofsNbdError ERR_CONTROL if it goes away meanwhile
   */
  async request<M extends Method>(
    method: M,
    params: Requests[M]["params"],
    imageFd?: number,
  ): Promise<Requests[M]["result"]> {
    const client = await this.#connected();
    return client.request(method, params, imageFd);
  }

  /** Repeats the request with the next manager if one goes away; only for requests without effects. */
  async ask<M extends Method>(method: M, params: Requests[M]["params"]): Promise<Requests[M]["result"]> {
    try {
      return await this.request(method, params);
    } catch (error) {
      if ((error as { code?: unknown }).code !== "ERR_CONTROL" || this.#closed) throw error;
      return this.request(method, params);
    }
  }

  /** Closes the connection; devices stay attached. No more events are emitted. */
  close(): void {
    this.#closed = true;
    this.removeAllListeners();
    const client = this.#client;
    this.#client = undefined;
    void client?.then(
      (open) => open.close(),
      () => {},
    );
  }

  #connected(connect: () => Promise<ControlClient> = () => this.#finder.reach()): Promise<ControlClient> {
    if (this.#closed)
      throw new ErofsNbdError("ERR_CONTROL", "cannot ask the manager: the connection was closed");
    this.#client ??= this.#open(connect).catch((error: unknown) => {
      this.#client = undefined;
      throw error;
    });
    return this.#client;
  }

  async #open(connect: () => Promise<ControlClient>): Promise<ControlClient> {
    const client = await connect();
    // A connection that ends before this was never reported as found; its error goes to the caller.
    let isOpen = false;
    try {
      await client.watch(
        (event) => this.emit("event", event),
        () => {
          if (isOpen) this.#lost();
        },
      );
      isOpen = true;
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  #lost(): void {
    if (this.#closed) return;
    this.#client = undefined;
    this.#lostAtMs = performance.now();
    this.emit("lost");
    if (!this.#isLooking) void this.#findAgain();
  }

  /** Searches without a time limit, because the program has devices that need a manager. */
  async #findAgain(): Promise<void> {
    this.#isLooking = true;
    while (!this.#closed) {
      const pid = await this.#look().catch(() => {
        // No manager could be started, or it ended at once; its log says why. Reads go on or wait meanwhile.
        return undefined;
      });
      if (pid !== undefined) {
        this.#isLooking = false;
        this.emit("found", pid);
        return;
      }
      await sleep(LOOK_AGAIN_MS);
    }
  }

  /** The manager's pid, once one was found, or started by a request or after the patience. */
  async #look(): Promise<number | undefined> {
    const isOverdue = performance.now() - this.#lostAtMs >= this.#patienceMs;
    if (this.#client === undefined && !(isOverdue && this.#finder.mayStart())) {
      const found = await this.#finder.find();
      if (found === undefined) return undefined;
      // A request may have connected meanwhile, or the session may have been closed.
      if (this.#client === undefined && !this.#closed)
        void this.#connected(async () => found).catch(() => {});
      else found.close();
    }
    return (await this.request("hello", {})).pid;
  }
}
