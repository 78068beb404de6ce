/**
 * A device that this program has attached: what it is, what happens to it, and its end.
 *
 * Made by `attach` and `NbdManager.attach`. The device does not need it: a program may end, or let go with `close`, and
 * reads go on. Keeps the process alive until it is detached or let go.
 */
import { EventEmitter } from "eventemitter3";
import { ControlError } from "../control/fault.ts";
import { isolateListener } from "../control/isolate-listener.ts";
import type { DeviceEvent, DeviceStatus } from "../control/protocol.ts";
import { ErofsNbdError, EXIT } from "../errors.ts";
import type { DeviceState } from "../supervisor/device-state.ts";
import type { FailoverOutcome } from "../supervisor/managed-device.ts";
import type { Session } from "./session.ts";

export interface AttachedDeviceEvents {
  state: (state: DeviceState, before: DeviceState) => void;
  /** Exactly one for each failover, when it is over. `stallMs`: for how long reads stood still. */
  failover: (outcome: Omit<FailoverOutcome, "at">) => void;
  /** A link was handed to another worker by plan; reads stood still for so long. */
  moved: (workerPid: number, stallMs: number) => void;
  /** Nobody serves, and the quick attempts are used up; `why` is the last reason. Attempts go on. */
  stalled: (why: string) => void;
  /** Reads had failed for want of a link, and work again. */
  revived: () => void;
  attemptFailed: (why: string) => void;
  /** `count` reads were answered with an I/O error, for this reason. */
  readErrors: (why: string, count: number) => void;
  /** The manager has gone; reads do not need it. What happens until `managerFound` is told by nobody. */
  managerLost: () => void;
  managerFound: (managerPid: number) => void;
  /** The device is gone: detached by whomever, unmounted, or ended by the kernel. The last event. */
  detached: (why: string) => void;
}

export class AttachedDevice extends EventEmitter<AttachedDeviceEvents> {
  /** «/dev/nbd0» */
  readonly device: string;
  readonly index: number;
  /** Unique text that the kernel keeps with the device. */
  readonly identifier: string;
  /** In whole blocks, as the kernel shows it. */
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  /** What the manager had to say about the attach, in lines for people. */
  readonly notes: readonly string[];
  readonly #session: Session;
  readonly #letGo: () => void;
  // Other devices share the session: they hear what they should, whatever this one's listeners do.
  readonly #onEvent = (event: DeviceEvent): void => isolateListener(() => this.#hear(event));
  readonly #onLost = (): void => isolateListener(() => this.emit("managerLost"));
  readonly #onFound = (managerPid: number): void => void this.#found(managerPid);
  #isDetached = false;
  #isClosed = false;
  #hasLetGo = false;
  /** Questions that are under way: the connection is needed until they are answered. */
  #asking = 0;

  /** @internal `letGo` is called once, when the session is no longer needed for it. */
  constructor(session: Session, status: DeviceStatus, notes: readonly string[], letGo: () => void) {
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
    this.#letGo = letGo;
    session.on("event", this.#onEvent).on("lost", this.#onLost).on("found", this.#onFound);
  }

  get isDetached(): boolean {
    return this.#isDetached;
  }

  /** What `erofs-nbd status DEVICE --json` prints. @throws ErofsNbdError ERR_NOT_ATTACHED */
  async status(): Promise<DeviceStatus> {
    const target = { index: this.index };
    const { devices } = await this.#whileAsking(() => this.#session.ask("status", { target }));
    const found = devices.find(({ identifier }) => identifier === this.identifier);
    if (found !== undefined) return found;
    throw new ErofsNbdError(
      "ERR_NOT_ATTACHED",
      `cannot tell the status of ${this.device}: it was detached, and the node is another device's by now`,
    );
  }

  /**
   * Detaches the device and returns when it, its links and its record are gone; one that is gone already is no error.
   * @throws ErofsNbdError ERR_DEVICE_MOUNTED while it is mounted; with `force` whatever is mounted there gets I/O errors
   */
  async detach({ force = false }: { readonly force?: boolean } = {}): Promise<void> {
    if (this.#isDetached || !(await this.#isThere())) return this.#end("it was gone");
    const params = { targets: [{ index: this.index }], all: false, force };
    const { results } = await this.#whileAsking(() => this.#session.request("detach", params));
    const error = results[0]?.error ?? null;
    if (error !== null && error.exitCode !== EXIT.absent) throw new ControlError(error);
    this.#end("it was detached");
  }

  /** Lets go of the device, which stays attached: no more events, and the process may end. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#session.off("event", this.#onEvent).off("lost", this.#onLost).off("found", this.#onFound);
    this.#endSession();
  }

  /** `await using device = await attach(…)` detaches at the end of the block. @throws as `detach` */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.detach();
  }

  /** @internal Takes an event of the time before there was this object. */
  hear(event: DeviceEvent): void {
    this.#onEvent(event);
  }

  /** The device's end is told before the answer to the request that caused it. */
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

  async #isThere(): Promise<boolean> {
    try {
      await this.status();
      return true;
    } catch (error) {
      if ((error as { code?: unknown }).code === "ERR_NOT_ATTACHED") return false;
      throw error;
    }
  }

  async #found(managerPid: number): Promise<void> {
    isolateListener(() => this.emit("managerFound", managerPid));
    // Its end may have come while nobody told.
    const isThere = await this.#isThere().catch(() => true);
    if (!isThere) this.#end("it ended while no manager ran");
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
