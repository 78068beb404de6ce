/**
 * One connection of this process to a manager, shared by all devices it has attached through it, and mended when the
 * manager is replaced or dies.
 *
 * Connects when first asked something. Loses no event but those of the time in which no manager ran, and of the
 * moment until the next one is found; `found` says that such a time is over. Knows nothing of devices.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import type { ControlClient } from "../control/client.ts";
import type { DeviceEvent, Method, Requests } from "../control/protocol.ts";
import { ErofsNbdError } from "../errors.ts";

export interface SessionEvents {
  event: (event: DeviceEvent) => void;
  /** The manager has gone; devices are served on without it. */
  lost: () => void;
  /** Another manager, or the same program's next one, is there. */
  found: (managerPid: number) => void;
}

/** How a session comes to its manager. */
export interface ManagerFinder {
  /** For somebody who asks for something: the manager, started where none runs. */
  reach(): Promise<ControlClient>;
  /** The manager that runs; undefined where none does. Starts none. */
  find(): Promise<ControlClient | undefined>;
  /** Whether one may be started that nobody asked for. */
  mayStart(): boolean;
}

/** What happens between a manager's start and our next look is told by nobody. */
const LOOK_AGAIN_MS = 100;
/** Guardian and systemd are quicker than this; whoever stops a manager wants none at once. */
const PATIENCE_MS = 7500;

export class Session extends EventEmitter<SessionEvents> {
  readonly #finder: ManagerFinder;
  readonly #patienceMs: number;
  #client: Promise<ControlClient> | undefined;
  #closed = false;
  #isLooking = false;
  #lostAtMs = 0;

  /** `patienceMs`: for how long a manager that has gone is only waited for; for tests. */
  constructor(finder: ManagerFinder, patienceMs: number = PATIENCE_MS) {
    super();
    this.#finder = finder;
    this.#patienceMs = patienceMs;
  }

  /**
   * Asks the manager; an `imageFd` goes along, and is only lent. @throws ControlError as the manager decides;
   * ErofsNbdError ERR_CONTROL when it goes away meanwhile
   */
  async request<M extends Method>(
    method: M,
    params: Requests[M]["params"],
    imageFd?: number,
  ): Promise<Requests[M]["result"]> {
    const client = await this.#connected();
    return client.request(method, params, imageFd);
  }

  /** Asks again of the next manager when one goes away: for questions that change nothing. */
  async ask<M extends Method>(method: M, params: Requests[M]["params"]): Promise<Requests[M]["result"]> {
    try {
      return await this.request(method, params);
    } catch (error) {
      if ((error as { code?: unknown }).code !== "ERR_CONTROL" || this.#closed) throw error;
      return this.request(method, params);
    }
  }

  /** Ends the connection; devices stay. Nothing is told any more. */
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
    // One that ends before that was never had, and its failure is told to who asked for it.
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

  /** For as long as it takes: somebody has devices that a manager should look after. */
  async #findAgain(): Promise<void> {
    this.#isLooking = true;
    while (!this.#closed) {
      const pid = await this.#look().catch(() => {
        // None could be started, or it ended at once. Its log says why; reads go on or wait meanwhile.
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

  /** The manager's pid, where one is there by now: found, started by somebody who asked, or by us when nobody else does. */
  async #look(): Promise<number | undefined> {
    const isOverdue = performance.now() - this.#lostAtMs >= this.#patienceMs;
    if (this.#client === undefined && !(isOverdue && this.#finder.mayStart())) {
      const found = await this.#finder.find();
      if (found === undefined) return undefined;
      // Somebody else, who asked, may have been quicker, or has closed the session.
      if (this.#client === undefined && !this.#closed)
        void this.#connected(async () => found).catch(() => {});
      else found.close();
    }
    return (await this.request("hello", {})).pid;
  }
}
