/**
 * `attach --foreground`: the manager and its supervisor in this process, for as long as the device lives.
 *
 * The command talks to its own manager over the control socket, as any other would. A signal detaches; a mounted device
 * is kept, and a second signal soon after detaches it all the same.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { ControlClient } from "../../control/client.ts";
import type { AttachParams, DeviceStatus } from "../../control/protocol.ts";
import { ErofsNbdError, EXIT } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import { runDaemon } from "../../manager/daemon.ts";
import { takeServiceEnvironment } from "../../manager/service/notify.ts";
import { keepInherited } from "../../sys/inherited.ts";
import { runDirOf } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { renounceRights } from "../inheritance.ts";
import { printAttached } from "../output.ts";
import { formatError } from "../report.ts";
import { watchEnd } from "./device-end.ts";

/** How soon a second signal must follow the first to mean «whatever is mounted there». */
const FORCE_WITHIN_MS = 3000;
const LAST_ANSWERS_MS = 2000;

/**
 * Resolves when the device has ended. `imageFd` is only lent, until the device is attached. @throws ErofsNbdError,
 * ControlError
 */
export async function attachInForeground(
  context: CliContext,
  params: AttachParams,
  imageFd: number,
  json: boolean,
): Promise<void> {
  const interrupted = context.interrupts.remember("finishing the attach, then detaching");
  const runDir = runDirOf(context, "manager");
  // As the manager command does, and for the same workers: nothing is started from here that needs to gain rights (dd, and the process
  // of an ioctl device). What was open for us stays open, because somebody waits for our end and may see it by that; guardian
  // and workers outlive us.
  keepInherited(3);
  renounceRights();
  // Workers are not to speak for a service that this command may be.
  takeServiceEnvironment();
  const daemon = await runDaemon({ runDir, auto: true, log: logFor(context), replaceable: false });
  const client = await ControlClient.connect(runDir);
  try {
    if (client === undefined) {
      throw new ErofsNbdError(
        "ERR_CONTROL",
        "cannot talk to the manager in this process: it does not listen",
      );
    }
    const { device, notes } = await client.request("attach", params, imageFd);
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
  let own: Promise<void> | undefined;
  const release = context.interrupts.claim(() => {
    const now = performance.now();
    const force = now - lastSignalAt < FORCE_WITHIN_MS;
    lastSignalAt = now;
    if (own !== undefined && !force) return;
    const detached = detach(context, client, device, force).finally(() => {
      if (own === detached) own = undefined;
    });
    own = detached;
  });
  try {
    await Promise.race([watchEnd(client, device), ended]);
    if (own !== undefined) return await own;
    // Ending already: a signal changes nothing any more.
    context.interrupts.claim(() => {});
    // Whoever detached it waits for this manager's answer: it ends by itself when nobody is connected any more.
    client.close();
    await Promise.race([ended, sleep(LAST_ANSWERS_MS)]);
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
