/**
 * `attach --foreground`: the manager and its supervisor in this process, for as long as the device lives.
 *
 * The command talks to its own manager over the control socket, as any other would. A signal detaches; a mounted device
 * is kept, and a second signal soon after detaches it all the same.
 */

import { ErofsNbdError, EXIT } from "../errors.ts";
import type { Log } from "../log.ts";
import { ControlClient } from "../manager/control-client.ts";
import type { AttachParams, DeviceStatus } from "../manager/control-protocol.ts";
import { runDaemon } from "../manager/daemon.ts";
import { runDirOf } from "./connection.ts";
import type { CliContext } from "./context.ts";
import { printAttached } from "./output.ts";
import { formatError } from "./report.ts";

/** How soon a second signal must follow the first to mean «whatever is mounted there». */
const FORCE_WITHIN_MS = 3000;

/** Resolves when the device has ended. @throws ErofsNbdError, ControlError */
export async function attachInForeground(
  context: CliContext,
  params: AttachParams,
  json: boolean,
): Promise<void> {
  const interrupted = context.interrupts.remember("finishing the attach, then detaching");
  const runDir = runDirOf(context);
  const daemon = await runDaemon({ runDir, auto: true, log: logFor(context) });
  const client = await ControlClient.connect(runDir);
  try {
    if (client === undefined) {
      throw new ErofsNbdError(
        "ERR_CONTROL",
        "Cannot talk to the manager in this process: it does not listen",
      );
    }
    const { device, notes } = await client.request("attach", params);
    for (const note of notes) context.note(note);
    if (interrupted.signal.aborted) await detach(context, client, device, false);
    interrupted.check(`attach ${params.image}`);
    interrupted.release();
    await printAttached(context, device, json);
    await untilDetached(context, client, device, daemon.ended);
  } finally {
    client?.close();
    await daemon.stop();
  }
}

/** The manager's log as notes: what went wrong always, the rest for those who asked for more. */
function logFor(context: CliContext): Log {
  return {
    info: (message) => context.detail(message),
    warn: (message) => context.note(message),
    error: (message) => context.note(message),
  };
}

/** Until the device has ended by itself, or a signal has ended it. */
async function untilDetached(
  context: CliContext,
  client: ControlClient,
  device: DeviceStatus,
  ended: Promise<void>,
): Promise<void> {
  let lastSignalAt = Number.NEGATIVE_INFINITY;
  let detaching = false;
  const release = context.interrupts.claim(() => {
    const now = performance.now();
    const force = now - lastSignalAt < FORCE_WITHIN_MS;
    lastSignalAt = now;
    if (detaching && !force) return;
    detaching = true;
    void detach(context, client, device, force).finally(() => {
      detaching = false;
    });
  });
  try {
    const gone = new Promise<void>((resolve) => {
      const onEvent = (event: { event: string; device: string | null }): void => {
        if (event.event === "detached" && event.device === device.device) resolve();
      };
      client.watch(onEvent, resolve).catch(() => resolve());
    });
    await Promise.race([gone, ended]);
  } finally {
    release();
  }
}

/** Tells what went wrong instead of throwing: the device is still there, and so are we. */
async function detach(
  context: CliContext,
  client: ControlClient,
  device: DeviceStatus,
  force: boolean,
): Promise<void> {
  if (device.index === null) return;
  try {
    const { results } = await client.request("detach", {
      targets: [{ index: device.index }],
      all: false,
      force,
    });
    const error = results[0]?.error ?? null;
    if (error === null || error.exitCode === EXIT.absent) return;
    process.stderr.write(formatError(Object.assign(new Error(error.message), error), context.isVerbose));
    context.note("it stays attached; interrupt twice within three seconds to detach it all the same");
  } catch (error) {
    process.stderr.write(formatError(error, context.isVerbose));
  }
}
