/**
 * `status --watch` without a terminal (see live.ts), or in JSON: prints the devices and then every event, across
 * restarts of the manager, until a signal or until the output is closed.
 *
 * Used by the status command.
 */
import type { DeviceEvent, DeviceStatus, Target } from "../../control/protocol.ts";
import { hasCode } from "../../errors.ts";
import type { CliContext } from "../context.ts";
import { formatEvent, formatTable } from "../output.ts";
import { WatchSession } from "./watch-session.ts";

/** What is watched, and how it is printed. */
interface View {
  readonly context: CliContext;
  readonly target: Target | null;
  readonly json: boolean;
  /** The target's device node, once it is known. Events name only the node. */
  device: string | undefined;
}

/** Resolves at the first signal, or when the output is closed. @throws ErofsNbdError ERR_NOT_ATTACHED at the start */
export async function watch(context: CliContext, target: Target | null, json: boolean): Promise<void> {
  const view: View = { context, target, json, device: undefined };
  const stop = new AbortController();
  context.onOutputGone = () => stop.abort();
  void context.interrupts.wait().then(() => stop.abort());
  const session = await WatchSession.open(context, target);
  const { signal } = stop;
  // Pending requests are not waited for.
  signal.addEventListener("abort", () => session.close());
  try {
    if (!session.isConnected) context.note("no devices attached; waiting for a manager");
    while (!signal.aborted && (session.isConnected || (await session.next(signal)))) {
      await follow(view, session, signal);
      if (!signal.aborted) await printNote(view, "the manager went away; waiting for another one");
    }
  } finally {
    session.close();
  }
}

/** Prints the devices, then events, until the manager goes away or the program is stopped. */
async function follow(view: View, session: WatchSession, stop: AbortSignal): Promise<void> {
  // Events that arrive before the devices are printed are kept, and printed after them.
  const early: DeviceEvent[] = [];
  let isEarly = true;
  const onEvent = (event: DeviceEvent): void => {
    if (isEarly) early.push(event);
    else void printEvent(view, event);
  };
  session.on("event", onEvent);
  const ended = new Promise<void>((resolve) => {
    session.once("lost", resolve);
    stop.addEventListener("abort", () => resolve(), { once: true });
  });
  try {
    const { devices, notes } = await session.request("status", { target: view.target });
    for (const note of notes) await printNote(view, note);
    view.device ??= view.target === null ? undefined : (devices[0]?.device ?? undefined);
    await printDevices(view, devices);
    for (const event of early) await printEvent(view, event);
  } catch (error) {
    // Only the first request may fail: later the end of a target is an event, and so is that of a manager.
    const isGone = hasCode(error, "ERR_CONTROL") || view.device !== undefined;
    if (!isGone) throw error;
  }
  isEarly = false;
  await ended;
  session.off("event", onEvent);
}

async function printDevices(view: View, devices: readonly DeviceStatus[]): Promise<void> {
  const { context, json } = view;
  if (!json) {
    if (devices.length > 0) return context.print(formatTable(devices));
    return context.note("no devices attached");
  }
  const at = new Date().toISOString();
  for (const status of devices) {
    await context.print(JSON.stringify({ at, device: status.device, event: "status", status }));
  }
}

async function printEvent(view: View, event: DeviceEvent): Promise<void> {
  if (view.target !== null && event.device !== view.device) return;
  await view.context.print(view.json ? JSON.stringify(event) : formatEvent(event));
}

/** Prints a note; in JSON as an event, so that programs receive it. */
async function printNote(view: View, message: string): Promise<void> {
  if (!view.json) return view.context.note(message);
  const note = { at: new Date().toISOString(), device: null, event: "note", message };
  await view.context.print(JSON.stringify(note));
}
