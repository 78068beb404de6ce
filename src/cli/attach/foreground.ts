/**
 * `attach --foreground`: runs the manager in this process for the lifetime of the device.
 *
 * Used by the attach command, which is a client of its own manager over the control socket. A signal detaches the
 * device. A mounted device stays attached, unless a second signal follows within three seconds.
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

/** A second signal within this time forces the detach of a mounted device. */
const FORCE_WITHIN_MS = 3000;
/** Time for the answers to clients that have detached the device. */
const LAST_ANSWERS_MS = 2000;

/**
 * Resolves when the device is detached. `imageFd` stays the caller's and is used until the device is attached.
 * @throws ErofsNbdError, ControlError
 */
export async function attachInForeground(
  context: CliContext,
  params: AttachParams,
  imageFd: number,
  json: boolean,
): Promise<void> {
  const interrupted = context.interrupts.remember("finishing the attach, then detaching");
  const runDir = runDirOf(context, "manager");
  // As in the manager command: no child of this process needs to gain privileges (dd, the process of an ioctl device).
  // Inherited descriptors stay open here, because a parent may detect the end of this process by them. They are closed
  // on exec, because guardian and workers outlive this process.
  keepInherited(3);
  renounceRights();
  // This command may be a service. Workers must not send notifications for it.
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

/** The manager's log as notes: warnings and errors always, the rest with --verbose. */
function logFor(context: CliContext): Log {
  return {
    info: (message) => context.detail(message),
    warn: (message) => context.note(message),
    error: (message) => context.note(message),
  };
}

/** Resolves when the device is detached, by a client or by a signal. */
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
    // The device is gone already: a signal has nothing left to do.
    context.interrupts.claim(() => {});
    // The client that detached the device waits for an answer. The manager ends when its last client disconnects.
    client.close();
    await Promise.race([ended, sleep(LAST_ANSWERS_MS)]);
  } finally {
    release();
  }
}

/** Prints errors instead of throwing: the device is still attached, and the command goes on serving it. */
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
    context.note("the device stays attached; interrupt twice within three seconds to force the detach");
  } catch (error) {
    process.stderr.write(formatError(error, context.isVerbose));
  }
}
