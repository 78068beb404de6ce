/**
 * One failover: from the first sign of death until every link is up and served again, and exactly one outcome.
 *
 * Level 1, a link that has lost its worker: another worker takes over the same socket, and the kernel notices nothing.
 * Level 2, a dead link, written as a sentence in `replaceDeadLinks`: make the old sockets surely dead, let the kernel's receivers leave,
 * get fresh links, hand them over, and believe it only when requests arrive. p-retry repeats the sentence, first
 * quickly, then slowly for as long as the device exists. The supervisor owns the state; this only works and tells.
 */
import { constants } from "node:os";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import pRetry, { AbortError, type Options } from "p-retry";
import { NetlinkError } from "../../../netlink/index.ts";
import type { DeviceView } from "../../kernel/device-view.ts";
import { withDeadline } from "../../sys/deadline.ts";
import type { LinkSet } from "../links/link-set.ts";
import type { LinkRequest, NbdCommands } from "../ports.ts";

export interface FailoverContext {
  readonly index: number;
  readonly identifier: string;
  readonly links: LinkSet;
  readonly nbd: NbdCommands;
  readonly view: Pick<DeviceView, "probe" | "backendOf">;
  /** Sent with every RECONFIGURE: an attribute that is left out keeps its value, a flag that is left out is cleared. */
  readonly settings: () => { readonly deadConnectionTimeoutSeconds: number; readonly clientFlags: number };
  readonly linkRequest: (slot: number) => LinkRequest;
  /** How many LINK_DEAD messages have come for this device since its links were last restored. */
  readonly linkDeadCount: () => number;
  /** Something with a deadline of its own begins: a watchdog wants to know that the work goes on. */
  readonly step: () => void;
  /** Notes the workers that are about to serve, before the kernel gets their sockets. Never rejects: reads wait. */
  readonly beforeHandover: () => Promise<void>;
  /** A takeover has found so many reads unanswered. */
  readonly tookOver: (unanswered: number) => void;
  /** A takeover is put off, because the link's workers die. */
  readonly waiting: (why: string) => void;
  readonly attemptFailed: (error: Error, attempt: number) => void;
  readonly timing: FailoverTiming;
}

type Pace = Pick<Options, "retries" | "minTimeout" | "maxTimeout" | "factor" | "randomize">;

/** How long a failover waits for what. Tests bring their own; the device's life depends on FAILOVER_TIMING. */
export interface FailoverTiming {
  /** How long one attempt waits for a worker that can serve. */
  readonly workerDeadlineMs: number;
  /** No request for this long over a fresh socket, though a read was forced: it was not adopted. */
  readonly proofDeadlineMs: number;
  /** Attempts until the stall is announced. */
  readonly quick: Pace;
  /** Attempts after that. */
  readonly slow: Pace;
}

/** The kernel has let the device go: no link can be given to it any more. */
export class DeviceEndedError extends Error {
  override readonly name = "DeviceEndedError";
}

/** A receiver that was not the one to notice a death needs a moment to leave the old socket (nbd.c, recv_work). */
const SETTLE_MIN_MS = 25;
/** With a LINK_DEAD the minimum is enough; without one, wait this long. */
const SETTLE_MAX_MS = 60;
/** A quiet device is asked for a block after this time; a busy one proves its link by itself. */
const PROBE_AFTER_MS = 20;

export const FAILOVER_TIMING: FailoverTiming = {
  workerDeadlineMs: 15_000,
  proofDeadlineMs: 4000,
  quick: { retries: 7, minTimeout: 50, maxTimeout: 2000, factor: 2, randomize: true },
  slow: {
    retries: Number.POSITIVE_INFINITY,
    minTimeout: 2000,
    maxTimeout: 15_000,
    factor: 1.5,
    randomize: true,
  },
};

/**
 * Mends links until each is up and served. `announceStall` is called when the quick attempts are used up.
 * @throws DeviceEndedError; or the signal's reason when it was aborted
 */
export async function restoreLinks(
  context: FailoverContext,
  signal: AbortSignal,
  announceStall: (why: Error) => void,
): Promise<void> {
  const attempt = async (): Promise<void> => {
    try {
      const { links } = context;
      context.step();
      while (links.orphanedSlots.length + links.deadSlots.length > 0) {
        for (const slot of links.orphanedSlots) await takeOver(context, slot, signal);
        if (links.deadSlots.length > 0) await replaceDeadLinks(context, signal);
      }
    } catch (error) {
      // p-retry gives up at once on a TypeError; a device is worth another try whatever went wrong.
      throw error instanceof TypeError ? new Error(error.message, { cause: error }) : error;
    }
  };
  const onFailedAttempt = ({ error, attemptNumber }: { error: Error; attemptNumber: number }): void => {
    if (!signal.aborted) context.attemptFailed(error, attemptNumber);
  };
  try {
    await pRetry(attempt, { ...context.timing.quick, signal, onFailedAttempt });
  } catch (error) {
    if (signal.aborted || error instanceof DeviceEndedError) throw error;
    announceStall(error as Error);
    await pRetry(attempt, { ...context.timing.slow, signal, onFailedAttempt });
  }
}

/** Another worker goes on with the same socket; a link that cannot be taken over safely is a dead one afterwards. */
async function takeOver(context: FailoverContext, slot: number, signal: AbortSignal): Promise<void> {
  context.step();
  const taken = await withDeadline(context.timing.workerDeadlineMs, signal, (patience) =>
    context.links.takeOver(slot, patience, context.waiting),
  );
  if (taken?.safe === true) context.tookOver(taken.unanswered);
}

async function replaceDeadLinks(context: FailoverContext, signal: AbortSignal): Promise<void> {
  const { links } = context;
  context.step();
  const dead = await settleDead(context, signal);
  try {
    await handOver(context, dead, signal);
    await prove(context, dead, signal);
    links.confirm(dead);
  } catch (error) {
    // A fresh link that the kernel was not given, or has not used, is alive on our side only: never count it as one.
    links.condemn(dead, "the fresh socket could not be proven to be in use");
    throw error;
  }
}

/** Gives every dead slot a fresh link and the kernel their sockets. */
async function handOver(
  context: FailoverContext,
  dead: readonly number[],
  signal: AbortSignal,
): Promise<void> {
  const { links, index, identifier } = context;
  let taken = false;
  try {
    const sockets = await withDeadline(context.timing.workerDeadlineMs, signal, async (patience) => {
      const fresh: number[] = [];
      for (const slot of dead) fresh.push(await links.replace(slot, context.linkRequest(slot), patience));
      return fresh;
    });
    await context.beforeHandover();
    signal.throwIfAborted();
    // Its last user has closed it meanwhile: asking would only make the kernel complain.
    if (context.view.backendOf(index) !== identifier)
      throw new AbortError(new DeviceEndedError(describeGone(index)));
    await context.nbd
      .reconfigure({ index, backendIdentifier: identifier, sockets, ...context.settings() })
      .finally(context.step);
    taken = true;
  } catch (error) {
    if (!isRefusedForGood(error)) throw error;
    throw new AbortError(new DeviceEndedError(describeGone(index)));
  } finally {
    links.handedOver(taken);
  }
}

/** Makes the sockets of dead links surely dead and left by everybody; returns the slots of all that died meanwhile. */
async function settleDead(context: FailoverContext, signal: AbortSignal): Promise<number[]> {
  const { links } = context;
  // The links of one worker die one after the other in the same turn.
  await nextTurn(undefined, { signal });
  for (;;) {
    const dead = links.deadSlots;
    links.shutDownDead();
    await settle(context, signal);
    if (links.deadSlots.length === dead.length) return dead;
  }
}

/** Waits until the kernel has marked the old sockets dead, and its receivers have left them. */
async function settle(context: FailoverContext, signal: AbortSignal): Promise<void> {
  await sleep(SETTLE_MIN_MS, undefined, { signal });
  const end = performance.now() + SETTLE_MAX_MS - SETTLE_MIN_MS;
  while (context.linkDeadCount() === 0 && performance.now() < end) await sleep(5, undefined, { signal });
}

/**
 * Waits for the proof that the kernel uses the fresh sockets: a request on each. Where nobody reads, a read is forced.
 *
 * With several links a read cannot be aimed at one of them (the processor that reads chooses its queue), and links
 * beyond the number of processors carry nothing at all. There, as many LINK_DEAD messages as sockets that were
 * replaced prove that the slots were free when the sockets came.
 */
async function prove(context: FailoverContext, slots: readonly number[], signal: AbortSignal): Promise<void> {
  const { links, index } = context;
  const proven = await withDeadline(context.timing.proofDeadlineMs, signal, async (bounded) => {
    const seen = links.requestsSeen(slots, bounded);
    if ((await Promise.race([seen, sleep(PROBE_AFTER_MS)])) === undefined)
      void context.view.probe(index, bounded);
    const freed = links.describe().length > 1 && context.linkDeadCount() >= slots.length;
    return freed ? slots.every((slot) => links.isAlive(slot)) : seen;
  });
  if (proven) return;
  signal.throwIfAborted();
  throw new Error(`cannot prove that nbd${index} uses its fresh socket: no request came over it`);
}

const describeGone = (index: number): string => `nbd${index} was disconnected by the kernel or somebody else`;

/** EINVAL for a well-formed RECONFIGURE of an existing device: it was disconnected, or is somebody else's by now. */
function isRefusedForGood(error: unknown): boolean {
  return error instanceof NetlinkError && error.origin === "ack" && error.errno === constants.errno.EINVAL;
}
