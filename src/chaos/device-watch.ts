/**
 * The target as its manager sees it: `status` and failovers, also those of the managers that follow.
 *
 * Used by the engine and the faults. Events and answers come on the same connection, so that an answer is never older
 * than an event before it. After a lost connection the next request finds or starts another manager, through the
 * `connect` of the command.
 */
import type { ControlClient } from "../control/client.ts";
import type { DeviceEvent, DeviceStatus, Target } from "../control/protocol.ts";
import { Session } from "../control/session.ts";
import { ErofsNbdError, hasCode, notAttached } from "../errors.ts";
import { inTime, OverdueError, pause } from "./waiting.ts";

/** A failover's event. */
export type FailoverEvent = Extract<DeviceEvent, { readonly event: "failover" }>;

/** Connects to the running manager, or to one started for the devices of a dead one; undefined if there is none. */
export type Connect = () => Promise<ControlClient | undefined>;

const LOOK_AGAIN_MS = 100;
const ANSWER_DEADLINE_MS = 30_000;

export class DeviceWatch {
  readonly #session: Session;
  readonly #note: (message: string) => void;
  #target: Target;
  #identifier: string | undefined;
  #device: string | null = null;
  #failovers: FailoverEvent[] = [];
  #wake: () => void = () => {};

  /** `note` receives the manager's notes for the user. */
  constructor(target: Target, connect: Connect, note: (message: string) => void) {
    this.#target = target;
    this.#note = note;
    this.#session = new Session(async () => {
      const client = await connect();
      if (client !== undefined) return client;
      throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot find the device: nothing is attached");
    });
    this.#session.on("event", (event) => this.#hear(event)).on("lost", () => this.#wake());
  }

  /** The failovers reported since the last call. */
  takeFailovers(): FailoverEvent[] {
    return this.#failovers.splice(0);
  }

  /**
   * The device's present status. The first call selects the device.
   * @throws ErofsNbdError ERR_NOT_ATTACHED, ERR_CONTROL, ControlError
   */
  async status(signal: AbortSignal): Promise<DeviceStatus> {
    return inTime(ANSWER_DEADLINE_MS, signal, this.#ask(), "the manager answered");
  }

  /**
   * Requests the status at each event and at intervals until the device is in the wanted state.
   * @throws OverdueError, the signal's reason
   */
  async until(
    wanted: (device: DeviceStatus) => boolean,
    what: string,
    deadlineMs: number,
    signal: AbortSignal,
  ): Promise<DeviceStatus> {
    const end = performance.now() + deadlineMs;
    for (;;) {
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const now = await this.#statusOrNothing(signal);
      if (now !== undefined && wanted(now)) return now;
      if (performance.now() > end) throw new OverdueError(what, deadlineMs);
      await Promise.race([woken, pause(LOOK_AGAIN_MS, signal)]);
    }
  }

  /** Cuts every live link of the device. @throws ControlError if there is no link to cut */
  async cutLinks(index: number): Promise<void> {
    await this.#session.request("cutLinks", { index });
  }

  /** Closes the connection; the next request opens a new one. */
  disconnect(): void {
    this.#session.disconnect();
  }

  /** Repeats the request if the manager dies meanwhile. */
  async #statusOrNothing(signal: AbortSignal): Promise<DeviceStatus | undefined> {
    try {
      return await this.status(signal);
    } catch (error) {
      if (!hasCode(error, "ERR_CONTROL")) throw error;
      this.disconnect();
      return undefined;
    }
  }

  async #ask(): Promise<DeviceStatus> {
    const { devices, notes } = await this.#session.request("status", { target: this.#target });
    for (const note of notes) this.#note(note);
    const [device] = devices;
    if (device === undefined || device.index === null) throw notAttached("find the device");
    if (devices.length > 1) {
      throw new ErofsNbdError(
        "ERR_BAD_ARGUMENT",
        `cannot choose between ${devices.map((one) => one.device).join(" and ")}: the image is attached more than once`,
        { hint: "name the device" },
      );
    }
    this.#identifier ??= device.identifier;
    if (device.identifier !== this.#identifier)
      throw new ErofsNbdError(
        "ERR_NOT_ATTACHED",
        `cannot go on: ${device.device} was attached anew meanwhile`,
      );
    this.#target = { index: device.index };
    this.#device = device.device;
    return device;
  }

  #hear(event: DeviceEvent): void {
    if (this.#device !== null && event.device !== this.#device) return;
    if (event.event === "failover") this.#failovers.push(event);
    this.#wake();
  }
}
