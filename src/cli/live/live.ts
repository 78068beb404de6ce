/**
 * `status --watch` on a terminal: requests the status every second and after every event, and draws it.
 *
 * Used by the status command. When the manager goes away, the table stays, dimmed, until the next one answers. A
 * manager is started at the beginning only, if records exist. Ends with q, at a signal, or when the terminal is gone.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { ControlClient } from "../../control/client.ts";
import type { DeviceEvent, Target } from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import { findManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { nextManager } from "../watch.ts";
import { Fleet } from "./fleet.ts";
import { renderFrame } from "./frame.ts";
import type { Keys } from "./keyboard.ts";
import { Screen, type Terminal } from "./screen.ts";

const INTERVAL_MS = 1000;
/** Many devices are requested less often, because each answer takes time that the manager needs for failovers. */
const MANY_DEVICES = 100;
const MANY_INTERVAL_MS = 2000;
/** Delay after an event, so that events in a burst cause one request. */
const EVENT_DELAY_MS = 150;
/** A manager that takes longer to answer is shown as not answering. */
const SILENT_MS = 3000;

/** Resolves after q, a signal, or the end of the terminal. @throws ErofsNbdError ERR_NOT_ATTACHED at the start */
export async function showLive(
  context: CliContext,
  target: Target | null,
  terminal: Terminal = process.stdout,
  keys: Keys = process.stdin,
): Promise<void> {
  const first = await findManager(context);
  if (first === undefined && target !== null)
    throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot watch the target: it is not attached");
  // Before the screen is switched: a target that is not attached causes an ordinary error.
  if (first !== undefined && target !== null) await first.request("status", { target });
  const stop = new AbortController();
  void context.interrupts.wait().then(() => stop.abort());
  terminal.on("error", () => stop.abort());
  terminal.on("close", () => stop.abort());
  process.once("SIGHUP", () => stop.abort());
  await new LiveTable(context, target, { terminal, keys }, stop).run(first);
}

class LiveTable {
  readonly #context: CliContext;
  readonly #target: Target | null;
  readonly #stop: AbortSignal;
  readonly #fleet = new Fleet();
  readonly #screen: Screen;
  readonly #isColoured = (process.env["NO_COLOR"] ?? "") === "";
  #askedAtMs: number | undefined;
  /** Ends the pause before the next request. */
  #wake: () => void = () => {};

  constructor(
    context: CliContext,
    target: Target | null,
    { terminal, keys }: { readonly terminal: Terminal; readonly keys: Keys },
    stop: AbortController,
  ) {
    this.#context = context;
    this.#target = target;
    this.#stop = stop.signal;
    this.#screen = new Screen(terminal, keys, { redraw: () => this.#draw(), quit: () => stop.abort() });
  }

  async run(first: ControlClient | undefined): Promise<void> {
    let client = first;
    this.#screen.enter();
    // The clock advances even if the manager is silent.
    const ticker = setInterval(() => this.#tick(), INTERVAL_MS);
    try {
      while (!this.#stop.aborted) {
        if (client === undefined) {
          this.#fleet.silence ??= "no manager is running; waiting for one";
          this.#draw();
          client = await nextManager(this.#context, this.#stop);
        }
        if (client === undefined) return;
        await this.#follow(client);
        client = undefined;
        this.#fleet.silence = "the manager went away; waiting for another one";
      }
    } finally {
      clearInterval(ticker);
      this.#screen.leave();
    }
  }

  #tick(): void {
    const silentMs = this.#askedAtMs === undefined ? 0 : Date.now() - this.#askedAtMs;
    if (silentMs > SILENT_MS) this.#fleet.silence = "the manager does not answer";
    if (this.#fleet.silence !== undefined) this.#draw();
  }

  /** Requests the status repeatedly, until the manager goes away or the program is stopped. */
  async #follow(client: ControlClient): Promise<void> {
    let isGone = false;
    const gone = (): void => {
      isGone = true;
      this.#wake();
    };
    const stopped = (): void => {
      // Pending requests will not be answered.
      client.close();
      this.#wake();
    };
    this.#stop.addEventListener("abort", stopped);
    try {
      await client.watch((event) => this.#hear(event), gone);
      while (!isGone && !this.#stop.aborted) {
        await this.#look(client);
        await this.#pause(() => isGone || this.#stop.aborted);
      }
    } catch (error) {
      if ((error as { code?: unknown }).code !== "ERR_CONTROL") throw error;
    } finally {
      this.#stop.removeEventListener("abort", stopped);
      client.close();
    }
  }

  async #look(client: ControlClient): Promise<void> {
    this.#askedAtMs = Date.now();
    const answer = await client
      .request("status", { target: this.#target })
      .catch((error: unknown) => {
        // The target was detached: the table is empty until it is attached again.
        if ((error as { code?: unknown }).code === "ERR_NOT_ATTACHED") return { devices: [], notes: [] };
        throw error;
      })
      .finally(() => {
        this.#askedAtMs = undefined;
      });
    this.#fleet.silence = undefined;
    this.#fleet.heard(answer, Date.now());
    for (const note of answer.notes) this.#fleet.note(note, new Date().toISOString());
    this.#draw();
  }

  #hear(event: DeviceEvent): void {
    const isOurs = this.#target === null || this.#fleet.devices.some(({ device }) => device === event.device);
    if (!isOurs) return;
    this.#fleet.happened(event);
    this.#wake();
  }

  /** Waits until the next request is due; an event shortens the wait. */
  async #pause(isOver: () => boolean): Promise<void> {
    if (isOver()) return;
    const many = this.#fleet.devices.length > MANY_DEVICES;
    const early = new AbortController();
    this.#wake = () => early.abort();
    await sleep(many ? MANY_INTERVAL_MS : INTERVAL_MS, undefined, { signal: early.signal }).catch(() => {});
    this.#wake = () => {};
    if (early.signal.aborted && !isOver()) await sleep(EVENT_DELAY_MS);
  }

  #draw(): void {
    const { columns, rows } = this.#screen;
    const options = { columns, rows, isColoured: this.#isColoured, nowMs: Date.now() };
    this.#screen.draw(renderFrame(this.#fleet, options));
  }
}
