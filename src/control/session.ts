/**
 * A connection to a manager that is made again when the manager is replaced or dies.
 *
 * Used by library, chaos and command line; all devices of a program share one. Connects with the first request, or with
 * a search. Events are lost only while no manager is running and until the next one is found; `found` marks the end of
 * such a gap. Knows nothing about devices.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import { ErofsNbdError, hasCode } from "../errors.ts";
import type { ControlClient } from "./client.ts";
import type { DeviceEvent, Method, Requests } from "./protocol.ts";

export interface SessionEvents {
  event: (event: DeviceEvent) => void;
  /** The manager is gone; devices are served without it. */
  lost: () => void;
  /** A search has ended: the next manager is connected. */
  found: (managerPid: number) => void;
}

/** How a session looks for the next manager by itself after each loss. */
export interface SearchAfterLoss {
  /** The running manager; undefined if there is none. Starts none. */
  find(): Promise<ControlClient | undefined>;
  /** Whether the session may start a manager without a request, through `reach`. */
  mayStart(): boolean;
  /** How long it waits for another manager before it starts one; default 7500. */
  readonly patienceMs?: number;
}

export interface SessionOptions {
  /** Interval of a search; default 100. Events between the start of a manager and the next look are lost. */
  readonly pollMs?: number;
  /** Without it, a lost connection stays lost until the next request or search. */
  readonly afterLoss?: SearchAfterLoss;
}

const POLL_MS = 100;
/** Guardian and systemd are faster than this. A user who stops a manager does not want another one at once. */
const PATIENCE_MS = 7500;

export class Session extends EventEmitter<SessionEvents> {
  readonly #reach: () => Promise<ControlClient>;
  readonly #pollMs: number;
  readonly #afterLoss: SearchAfterLoss | undefined;
  #connection: Connection | undefined;
  #isClosed = false;
  #isSearchingAfterLoss = false;
  #lostAtMs = 0;

  /** `reach` returns the manager for a request without a connection; it may start one. */
  constructor(reach: () => Promise<ControlClient>, { pollMs = POLL_MS, afterLoss }: SessionOptions = {}) {
    super();
    this.#reach = reach;
    this.#pollMs = pollMs;
    this.#afterLoss = afterLoss;
  }

  /** Whether there is a connection, or one is being made. */
  get isConnected(): boolean {
    return this.#connection !== undefined;
  }

  /** Takes a client that is connected already. @throws ErofsNbdError ERR_CONTROL if its manager goes away */
  async use(client: ControlClient): Promise<void> {
    // A request may have connected meanwhile.
    if (this.#connection === undefined && !this.#isClosed) await this.#connected(async () => client);
    else client.close();
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
    const client = await this.#connected(this.#reach);
    return client.request(method, params, imageFd);
  }

  /** Repeats the request with the next manager if one goes away; only for requests without effects. */
  async ask<M extends Method>(method: M, params: Requests[M]["params"]): Promise<Requests[M]["result"]> {
    try {
      return await this.request(method, params);
    } catch (error) {
      if (!hasCode(error, "ERR_CONTROL") || this.#isClosed) throw error;
      return this.request(method, params);
    }
  }

  /**
   * Calls `find` at intervals until a manager is connected and has answered. False if `stop` aborts, or the session is
   * closed, before that; there is no connection then.
   * @throws ErofsNbdError ERR_PERMISSION, ERR_RUN_DIR
   */
  async search(find: () => Promise<ControlClient | undefined>, stop: AbortSignal): Promise<boolean> {
    const onStop = (): void => this.disconnect();
    stop.addEventListener("abort", onStop, { once: true });
    try {
      while (!this.#isClosed && !stop.aborted) {
        if ((await this.#look(find)) && !stop.aborted) return true;
        await sleep(this.#pollMs, undefined, { signal: stop }).catch(() => {});
      }
      // A look that was under way may have connected since.
      this.disconnect();
      return false;
    } finally {
      stop.removeEventListener("abort", onStop);
    }
  }

  /**
   * Closes the connection, also one that is being made; `lost` is not emitted. The next request or search makes
   * another. Pending requests fail with ERR_CONTROL.
   */
  disconnect(): void {
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.close();
  }

  /** Closes the connection for good; devices stay attached. No more events are emitted. */
  close(): void {
    this.#isClosed = true;
    this.removeAllListeners();
    this.disconnect();
  }

  #connected(connect: () => Promise<ControlClient>): Promise<ControlClient> {
    if (this.#isClosed)
      throw new ErofsNbdError("ERR_CONTROL", "cannot ask the manager: the connection was closed");
    if (this.#connection !== undefined) return this.#connection.ready;
    const connection = new Connection(connect, {
      event: (event) => this.emit("event", event),
      end: () => this.#lost(connection),
    });
    this.#connection = connection;
    connection.ready.catch(() => {
      if (this.#connection === connection) this.#connection = undefined;
    });
    return connection.ready;
  }

  #lost(connection: Connection): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    this.#lostAtMs = performance.now();
    this.emit("lost");
    if (this.#afterLoss !== undefined && !this.#isSearchingAfterLoss)
      void this.#searchAfterLoss(this.#afterLoss);
  }

  /** Searches without a time limit, because the program has devices that need a manager. */
  async #searchAfterLoss({ find, mayStart, patienceMs = PATIENCE_MS }: SearchAfterLoss): Promise<void> {
    this.#isSearchingAfterLoss = true;
    while (!this.#isClosed) {
      const isOverdue = performance.now() - this.#lostAtMs >= patienceMs;
      // No manager could be started, or none may be asked; its log says why. Reads go on or wait meanwhile.
      if (await this.#look(isOverdue && mayStart() ? undefined : find).catch(() => false)) break;
      await sleep(this.#pollMs);
    }
    this.#isSearchingAfterLoss = false;
  }

  /** Whether a manager is connected and has answered: by `find`, by a request meanwhile, or, without it, by `reach`. */
  async #look(find: (() => Promise<ControlClient | undefined>) | undefined): Promise<boolean> {
    try {
      if (find !== undefined && this.#connection === undefined) {
        const found = await find();
        if (found === undefined) return false;
        await this.use(found);
      }
      const { pid } = await this.request("hello", {});
      this.emit("found", pid);
      return true;
    } catch (error) {
      // The manager went away before it had answered.
      if (hasCode(error, "ERR_CONTROL")) return false;
      throw error;
    }
  }
}

/** One connection of a session, from the attempt to make it. Events are subscribed to before any other request. */
class Connection {
  readonly ready: Promise<ControlClient>;
  #client: ControlClient | undefined;
  #isClosed = false;

  /** `end`: the manager went away after `ready`. An attempt that fails rejects `ready` instead. */
  constructor(
    connect: () => Promise<ControlClient>,
    on: { readonly event: (event: DeviceEvent) => void; readonly end: () => void },
  ) {
    this.ready = this.#open(connect, on);
  }

  close(): void {
    this.#isClosed = true;
    this.#client?.close();
  }

  async #open(
    connect: () => Promise<ControlClient>,
    { event, end }: { readonly event: (event: DeviceEvent) => void; readonly end: () => void },
  ): Promise<ControlClient> {
    const client = await connect();
    let isOpen = false;
    try {
      this.#client = client;
      if (this.#isClosed) client.close();
      await client.watch(event, () => {
        if (isOpen) end();
      });
      isOpen = true;
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }
}
