/**
 * An attached device as programs use it: its properties, status, events and detach.
 *
 * Created by `attach`, `find`, `list` and NbdManager. The device itself does not depend on it: reads go on after the
 * program ends or calls `close`. The object keeps the process alive until the device is detached or closed.
 */
import { EventEmitter } from "eventemitter3";
import { ControlError } from "../control/fault.ts";
import { isolateListener } from "../control/isolate-listener.ts";
import type { DeviceEvent, DeviceStatus, Target } from "../control/protocol.ts";
import type { Session } from "../control/session.ts";
import { ErofsNbdError, EXIT, hasCode } from "../errors.ts";
import type { DeviceState } from "../supervisor/device-state.ts";
import type { FailoverOutcome } from "../supervisor/managed-device.ts";

export interface AttachedDeviceEvents {
  state: (state: DeviceState, before: DeviceState) => void;
  /** Emitted once at the end of each failover. `stallMs`: how long reads waited. */
  failover: (outcome: Omit<FailoverOutcome, "at">) => void;
  /** A link was handed over to another worker; reads waited for `stallMs`. */
  moved: (workerPid: number, stallMs: number) => void;
  /** The device is not served and the fast attempts have failed, the last one because of `why`. Attempts go on. */
  stalled: (why: string) => void;
  /** Reads had failed without a link, and work again. */
  revived: () => void;
  attemptFailed: (why: string) => void;
  /** `count` reads were answered with an I/O error, for this reason. */
  readErrors: (why: string, count: number) => void;
  /** The manager is gone; reads do not need it. There are no events until `managerFound`. */
  managerLost: () => void;
  managerFound: (managerPid: number) => void;
  /** The device is gone: detached by any client, unmounted, or disconnected by the kernel. The last event. */
  detached: (why: string) => void;
}

export class AttachedDevice extends EventEmitter<AttachedDeviceEvents> {
  /** "/dev/nbd0" */
  readonly device: string;
  readonly index: number;
  /** A unique text that the kernel stores with the device. */
  readonly identifier: string;
  /** In whole blocks, as the kernel reports it. */
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  /** Notes of the manager about the attach, as lines of text. */
  readonly notes: readonly string[];
  readonly #session: Session;
  readonly #isOwn: boolean;
  readonly #letGo: () => void;
  // Other devices share the session: an exception of this one's listeners must not affect them.
  readonly #onEvent = (event: DeviceEvent): void => isolateListener(() => this.#hear(event));
  readonly #onLost = (): void => isolateListener(() => this.emit("managerLost"));
  readonly #onFound = (managerPid: number): void => void this.#found(managerPid);
  #isDetached = false;
  #isClosed = false;
  #hasLetGo = false;
  /** Requests in progress, which need the connection. */
  #asking = 0;

  /**
   * @internal `isOwn`: the program has attached it by this object. `letGo` is called once, when the session is no
   * longer needed for it.
   */
  constructor(
    session: Session,
    status: DeviceStatus,
    { notes, isOwn }: { readonly notes: readonly string[]; readonly isOwn: boolean },
    letGo: () => void,
  ) {
    super();
    if (status.device === null || status.index === null)
      throw new ErofsNbdError("ERR_INTERNAL", "cannot use an attached device: it has no index");
    this.device = status.device;
    this.index = status.index;
    this.identifier = status.identifier;
    this.sizeBytes = status.sizeBytes;
    this.blockSizeBytes = status.blockSizeBytes;
    this.notes = notes;
    this.#session = session;
    this.#isOwn = isOwn;
    this.#letGo = letGo;
    session.on("event", this.#onEvent).on("lost", this.#onLost).on("found", this.#onFound);
  }

  get isDetached(): boolean {
    return this.#isDetached;
  }

  /** The status, as `erofs-nbd status DEVICE --json` prints it. @throws ErofsNbdError ERR_NOT_ATTACHED */
  async status(): Promise<DeviceStatus> {
    const target = { index: this.index };
    const { devices } = await this.#whileAsking(() => this.#session.ask("status", { target }));
    const found = devices.find(({ identifier }) => identifier === this.identifier);
    if (found !== undefined) return found;
    throw new ErofsNbdError(
      "ERR_NOT_ATTACHED",
      `cannot get the status of ${this.device}: it was detached, and the node belongs to another device now`,
    );
  }

  /**
   * Detaches the device and returns when it, its links and its record are gone. No error if it is gone already.
   * @throws ErofsNbdError ERR_DEVICE_MOUNTED while it is mounted; with `force` the mount gets I/O errors instead
   */
  async detach({ force = false }: { readonly force?: boolean } = {}): Promise<void> {
    if (this.#isDetached || !(await this.#isThere())) return this.#end("it was gone");
    const { results } = await this.#whileAsking(async () => {
      const targets = [await this.#target()];
      return this.#session.request("detach", { targets, all: false, force });
    });
    const error = results[0]?.error ?? null;
    if (error !== null && error.exitCode !== EXIT.absent) throw new ControlError(error);
    this.#end("it was detached");
  }

  /** Closes this object; the device stays attached. No more events are emitted, and the process may end. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#session.off("event", this.#onEvent).off("lost", this.#onLost).off("found", this.#onFound);
    this.#endSession();
  }

  /**
   * `await using device = await attach(…)` detaches at the end of the block. A device of `find` or `list` is only
   * closed, because another program may have attached it. @throws as `detach`
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isOwn) await this.detach();
    else this.close();
  }

  /** @internal Takes an event that arrived before this object was created. */
  hear(event: DeviceEvent): void {
    this.#onEvent(event);
  }

  /**
   * Keeps the session during a request: the `detached` event arrives before the answer to the request that caused it.
   */
  async #whileAsking<T>(ask: () => Promise<T>): Promise<T> {
    this.#asking += 1;
    try {
      return await ask();
    } finally {
      this.#asking -= 1;
      this.#endSession();
    }
  }

  #endSession(): void {
    if (!this.#isClosed || this.#asking > 0 || this.#hasLetGo) return;
    this.#hasLetGo = true;
    this.#letGo();
  }

  /** As its manager takes it. The index may be another device's when the request is carried out. */
  async #target(): Promise<Target> {
    const { protocol = 1 } = await this.#session.ask("hello", {});
    return protocol >= 2 ? { identifier: this.identifier } : { index: this.index };
  }

  async #isThere(): Promise<boolean> {
    try {
      await this.status();
      return true;
    } catch (error) {
      if (hasCode(error, "ERR_NOT_ATTACHED")) return false;
      throw error;
    }
  }

  async #found(managerPid: number): Promise<void> {
    isolateListener(() => this.emit("managerFound", managerPid));
    // The device may have been detached while no manager was running.
    const isThere = await this.#isThere().catch(() => true);
    if (!isThere) this.#end("it ended while no manager was running");
  }

  #hear(event: DeviceEvent): void {
    if (event.device !== this.device || this.#isDetached || this.#isClosed) return;
    switch (event.event) {
      case "state":
        this.emit("state", event.state, event.before);
        return;
      case "failover": {
        const { at: _, device: __, event: ___, ...outcome } = event;
        this.emit("failover", outcome);
        return;
      }
      case "moved":
        this.emit("moved", event.workerPid, event.stallMs);
        return;
      case "stalled":
        this.emit("stalled", event.message);
        return;
      case "revived":
        this.emit("revived");
        return;
      case "attempt-failed":
        this.emit("attemptFailed", event.message);
        return;
      case "read-errors":
        this.emit("readErrors", event.message, event.count);
        return;
      case "detached":
        this.#end(event.message);
        return;
    }
  }

  #end(why: string): void {
    if (this.#isDetached) return;
    this.#isDetached = true;
    this.close();
    isolateListener(() => this.emit("detached", why));
  }
}
