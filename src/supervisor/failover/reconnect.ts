/**
 * Replaces the dead links of a device by fresh ones, as one attempt of a failover.
 *
 * `replaceDeadLinks` reads top to bottom: make the old sockets surely dead, let the kernel's receivers leave them, open
 * fresh links, give their sockets to the kernel, and wait for the proof that it uses them.
 */
import { constants } from "node:os";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { AbortError } from "p-retry";
import { NetlinkError } from "../../../netlink/index.ts";
import { withDeadline } from "../../sys/deadline.ts";
import type { KernelDevice } from "../kernel-device.ts";
import type { LinkSet } from "../links/link-set.ts";
import type { ProgressTracker } from "../progress-tracker.ts";
import type { FailoverTiming } from "./timing.ts";

/** What a failover works with: the parts of its device. */
export interface FailoverParts {
  readonly kernel: KernelDevice;
  readonly links: LinkSet;
  readonly progress: ProgressTracker;
  readonly timing: FailoverTiming;
  /** Writes the record, which names the workers behind the links. Never rejects: reads wait. */
  readonly record: () => Promise<void>;
}

/** The kernel has let the device go: no link can be given to it any more. */
export class DeviceEndedError extends Error {
  override readonly name = "DeviceEndedError";
}

/** A receiver of the kernel that did not notice the death needs a moment to leave the old socket (nbd.c, recv_work). */
const SETTLE_MIN_MS = 25;
/** With a LINK_DEAD the minimum is enough; without one, the wait is this long. */
const SETTLE_MAX_MS = 60;
/** A quiet device is asked for a block after this time; a busy one proves its link by itself. */
const PROBE_AFTER_MS = 20;

/** @throws DeviceEndedError within AbortError; the signal's reason; or why this attempt has failed */
export async function replaceDeadLinks(parts: FailoverParts, signal: AbortSignal): Promise<void> {
  const { links } = parts;
  parts.progress.step();
  const dead = await settleDead(links, signal);
  try {
    await offerFreshLinks(parts, dead, signal);
    await prove(parts, dead, signal);
    links.confirm(dead);
  } catch (error) {
    // The kernel was not given the fresh link, or has not used it, so only this side has it: it counts as dead.
    links.condemn(dead, "the fresh socket could not be proven to be in use");
    throw error;
  }
}

/**
 * Makes the sockets of dead links surely dead, and waits until they are left. Returns all links that died meanwhile.
 */
async function settleDead(links: LinkSet, signal: AbortSignal): Promise<number[]> {
  // The links of one worker die one after the other in the same turn.
  await nextTurn(undefined, { signal });
  for (;;) {
    const { dead } = links;
    links.shutDownDead();
    await settle(links, signal);
    if (links.dead.length === dead.length) return dead;
  }
}

/** Waits until the kernel has marked the old sockets dead, and its receivers have left them. */
async function settle(links: LinkSet, signal: AbortSignal): Promise<void> {
  await sleep(SETTLE_MIN_MS, undefined, { signal });
  const end = performance.now() + SETTLE_MAX_MS - SETTLE_MIN_MS;
  while (links.linkDeadCount === 0 && performance.now() < end) await sleep(5, undefined, { signal });
}

/** Opens a fresh link for every dead one and gives the kernel their sockets. */
async function offerFreshLinks(
  { kernel, links, timing, record }: FailoverParts,
  dead: readonly number[],
  signal: AbortSignal,
): Promise<void> {
  let taken = false;
  try {
    const sockets = await withDeadline(timing.workerDeadlineMs, signal, async (patience) => {
      const fresh: number[] = [];
      for (const index of dead) fresh.push(await links.replace(index, patience));
      return fresh;
    });
    await record();
    signal.throwIfAborted();
    // After autoclear the last close may have ended it meanwhile: a RECONFIGURE would only make the kernel complain.
    if (!kernel.isOurs) throw deviceEnded(kernel);
    await kernel.reconfigure(sockets);
    taken = true;
  } catch (error) {
    throw isRefusedForGood(error) ? deviceEnded(kernel) : error;
  } finally {
    links.offered(taken);
  }
}

/**
 * Waits for the proof that the kernel uses the fresh sockets: a request on each. On a quiet device a read is forced.
 *
 * With several links a read cannot be aimed at one of them (the processor that reads chooses its queue), and links
 * beyond the number of processors carry nothing at all. There, as many LINK_DEAD messages as sockets that were
 * replaced prove that the old sockets were dead when the fresh ones came.
 */
async function prove(
  { kernel, links, timing }: FailoverParts,
  indexes: readonly number[],
  signal: AbortSignal,
): Promise<void> {
  const proven = await withDeadline(timing.proofDeadlineMs, signal, async (bounded) => {
    const seen = links.requestsSeen(indexes, bounded);
    if ((await Promise.race([seen, sleep(PROBE_AFTER_MS)])) === undefined) void kernel.probe(bounded);
    const freed = links.describe().length > 1 && links.linkDeadCount >= indexes.length;
    return freed ? indexes.every((index) => links.isAlive(index)) : seen;
  });
  if (proven) return;
  signal.throwIfAborted();
  throw new Error(`cannot prove that nbd${kernel.index} uses its fresh socket: no request came over it`);
}

/** Ends the attempts of p-retry. */
const deviceEnded = ({ index }: KernelDevice): AbortError =>
  new AbortError(new DeviceEndedError(`nbd${index} was disconnected by the kernel or by another program`));

/**
 * EINVAL for a well-formed RECONFIGURE of an existing device: it was disconnected, or its index is another's by now.
 */
function isRefusedForGood(error: unknown): boolean {
  return error instanceof NetlinkError && error.origin === "ack" && error.errno === constants.errno.EINVAL;
}
