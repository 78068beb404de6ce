/**
 * `status --watch` on a terminal: requests the status every second and after every event, and draws it.
 *
 * Used by the status command. When the manager goes away, the table stays, dimmed, until the next one answers. Ends
 * with q, at a signal, or when the terminal is gone.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { DeviceEvent, Target } from "../../control/protocol.ts";
import { hasCode } from "../../errors.ts";
import type { CliContext } from "../context.ts";
import { Fleet } from "./fleet.ts";
import { renderFrame } from "./frame.ts";
import type { Keys } from "./keyboard.ts";
import { Screen, type Terminal } from "./screen.ts";
import { WatchSession } from "./watch-session.ts";

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
  const session = await WatchSession.open(context, target);
  // Before the screen is switched: a target that is not attached causes an ordinary error.
  if (target !== null) await session.request("status", { target });
  const stop = new AbortController();
  void context.interrupts.wait().then(() => stop.abort());
  terminal.on("error", () => stop.abort());
  terminal.on("close", () => stop.abort());
  process.once("SIGHUP", () => stop.abort());
  await new LiveTable(session, target, { terminal, keys }, stop).run();
}

class LiveTable {
  readonly #session: WatchSession;
  readonly #target: Target | null;
  readonly #stop: AbortSignal;
  readonly #fleet = new Fleet();
  readonly #screen: Screen;
  readonly #isColoured = (process.env["NO_COLOR"] ?? "") === "";
  #askedAtMs: number | undefined;
  /** Ends the pause before the next request. */
  #wake: () => void = () => {};

  constructor(
    session: WatchSession,
    target: Target | null,
    { terminal, keys }: { readonly terminal: Terminal; readonly keys: Keys },
    stop: AbortController,
  ) {
    this.#session = session;
    this.#target = target;
    this.#stop = stop.signal;
    session.on("event", (event) => this.#hear(event)).on("lost", () => this.#wake());
    this.#stop.addEventListener("abort", () => {
      // Pending requests will not be answered.
      session.close();
      this.#wake();
    });
    this.#screen = new Screen(terminal, keys, { redraw: () => this.#draw(), quit: () => stop.abort() });
  }

  async run(): Promise<void> {
    this.#screen.enter();
    // The clock advances even if the manager is silent.
    const ticker = setInterval(() => this.#tick(), INTERVAL_MS);
    try {
      while (!this.#stop.aborted) {
        if (!this.#session.isConnected) {
          this.#fleet.silence ??= "no manager is running; waiting for one";
          this.#draw();
          if (!(await this.#session.next(this.#stop))) return;
        }
        await this.#follow();
        this.#fleet.silence = "the manager went away; waiting for another one";
      }
    } finally {
      clearInterval(ticker);
      this.#session.close();
      this.#screen.leave();
    }
  }

  #tick(): void {
    const silentMs = this.#askedAtMs === undefined ? 0 : Date.now() - this.#askedAtMs;
    if (silentMs > SILENT_MS) this.#fleet.silence = "the manager does not answer";
    if (this.#fleet.silence !== undefined) this.#draw();
  }

  /** Requests the status repeatedly, until the manager goes away or the program is stopped. */
  async #follow(): Promise<void> {
    try {
      while (!this.#isOver()) {
        await this.#look();
        await this.#pause();
      }
    } catch (error) {
      if (!hasCode(error, "ERR_CONTROL")) throw error;
      this.#session.disconnect();
    }
  }

  #isOver(): boolean {
    return this.#stop.aborted || !this.#session.isConnected;
  }

  async #look(): Promise<void> {
    this.#askedAtMs = Date.now();
    const answer = await this.#session
      .request("status", { target: this.#target })
      .catch((error: unknown) => {
        // The target was detached: the table is empty until it is attached again.
        if (hasCode(error, "ERR_NOT_ATTACHED")) return { devices: [], notes: [] };
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
  async #pause(): Promise<void> {
    if (this.#isOver()) return;
    const many = this.#fleet.devices.length > MANY_DEVICES;
    const early = new AbortController();
    this.#wake = () => early.abort();
    await sleep(many ? MANY_INTERVAL_MS : INTERVAL_MS, undefined, { signal: early.signal }).catch(() => {});
    this.#wake = () => {};
    if (early.signal.aborted && !this.#isOver()) await sleep(EVENT_DELAY_MS);
  }

  #draw(): void {
    const { columns, rows } = this.#screen;
    const options = { columns, rows, isColoured: this.#isColoured, nowMs: Date.now() };
    this.#screen.draw(renderFrame(this.#fleet, options));
  }
}
