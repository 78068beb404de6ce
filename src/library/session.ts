/**
 * One connection of this process to a manager, shared by all devices it has attached through it, and mended when the
 * manager is replaced or dies.
 *
 * Connects when first asked something. Loses no event but those of the time in which no manager ran; `found` says that
 * such a time is over. Knows nothing of devices.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EventEmitter } from "eventemitter3";
import { ErofsNbdError } from "../errors.ts";
import type { ControlClient } from "../manager/control-client.ts";
import type { DeviceEvent, Method, Requests } from "../manager/control-protocol.ts";

export interface SessionEvents {
  event: (event: DeviceEvent) => void;
  /** The manager has gone; devices are served on without it. */
  lost: () => void;
  /** Another manager, or the same program's next one, is there. */
  found: (managerPid: number) => void;
}

const LOOK_AGAIN_MS = 500;

export class Session extends EventEmitter<SessionEvents> {
  readonly #connect: () => Promise<ControlClient>;
  #client: Promise<ControlClient> | undefined;
  #closed = false;

  /** `connect` finds the manager, or starts one. */
  constructor(connect: () => Promise<ControlClient>) {
    super();
    this.#connect = connect;
  }

  /** Asks the manager. @throws ControlError as the manager decides; ErofsNbdError ERR_CONTROL when it goes away meanwhile */
  async request<M extends Method>(method: M, params: Requests[M]["params"]): Promise<Requests[M]["result"]> {
    const client = await this.#connected();
    return client.request(method, params);
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

  #connected(): Promise<ControlClient> {
    if (this.#closed)
      throw new ErofsNbdError("ERR_CONTROL", "Cannot ask the manager: the connection was closed");
    this.#client ??= this.#open().catch((error: unknown) => {
      this.#client = undefined;
      throw error;
    });
    return this.#client;
  }

  async #open(): Promise<ControlClient> {
    const client = await this.#connect();
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
    this.emit("lost");
    void this.#findAgain();
  }

  /** For as long as it takes: somebody has devices that a manager should look after. */
  async #findAgain(): Promise<void> {
    while (!this.#closed) {
      try {
        const { pid } = await this.request("hello", {});
        this.emit("found", pid);
        return;
      } catch {
        // None could be started, or it ended at once. Its log says why; reads go on or wait meanwhile.
        await sleep(LOOK_AGAIN_MS);
      }
    }
  }
}
