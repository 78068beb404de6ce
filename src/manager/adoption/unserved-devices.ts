/**
 * Netlink devices of a former manager that no reattached worker serves.
 *
 * Used by adoption.ts. Their old workers are dead or do not answer. A silent worker is killed, because the kernel
 * replaces only dead sockets, and the device begins with a failover. Where the image cannot be opened again, the old
 * worker is the only process that has it: it is spared, and so are the workers of devices that share it. Images are
 * opened by other processes, because a file system may not answer: its devices are kept until it does.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { SYSFS_VIEW } from "../../kernel/device-view.ts";
import { HAND_IN, type LostImage } from "../../opener/reopen-image.ts";
import { sourceUri } from "../../source/source-spec.ts";
import { isAlive, type ProcessIdentity } from "../../sys/process-identity.ts";
import { type DeviceRecord, imageOf } from "../records/record.ts";
import {
  type AdoptionContext,
  cannotContinue,
  keepUncontinued,
  type Note,
  serversOf,
} from "./adoption-context.ts";
import { LeftoverDevice } from "./leftover-device.ts";
import type { FoundImage, Opening } from "./recorded-image.ts";

export interface UnservedDevice {
  readonly record: DeviceRecord;
  readonly index: number;
}

/** With its image, or why that is lost, or neither as long as it cannot be opened. */
interface Candidate extends UnservedDevice {
  readonly opening: Opening;
  readonly image: FoundImage | undefined;
  readonly loss: LostImage | undefined;
}

/** The kernel's receivers of the killed workers' sockets need a moment to notice (recv_work). */
const SETTLE_MS = 60;
/** A worker in an uninterruptible read ignores SIGKILL until the read ends: the start does not wait for that. */
const KILL_PATIENCE_MS = 5000;

/**
 * `needed`: workers that must not be ended. Returns when each device is continued, or kept as a leftover device; those
 * whose images are not open by then go on later (late-image.ts).
 */
export async function takeOverUnserved(
  devices: readonly UnservedDevice[],
  needed: readonly ProcessIdentity[],
  context: AdoptionContext,
  note: Note,
): Promise<void> {
  // Devices with waiting reads come first: there may be hundreds of others.
  const { readsInFlight } = context.view ?? SYSFS_VIEW;
  const waiting = new Map(devices.map((one) => [one, readsInFlight(one.index)]));
  const sorted = [...devices].sort((a, b) => (waiting.get(b) ?? 0) - (waiting.get(a) ?? 0));
  const openings = sorted.map((device) => ({ device, opening: context.open(device.record) }));
  const taking = new TakingOver(needed, context, note);
  const mayBeServed = devices.some(({ record }) => taking.alive(record.workers).length > 0);
  if (mayBeServed || context.silent.length > 0) {
    // Which of these workers may be ended depends on all images.
    const candidates = await Promise.all(openings.map((one) => withImage(one, note)));
    return taking.takeOver(candidates, context.silent);
  }
  // No device waits for another one's image.
  const ended = taking.end(devices.flatMap(({ record }) => record.workers));
  let turn = Promise.resolve();
  const each = openings.map(async (one) => {
    const candidate = await withImage(one, note);
    await ended;
    turn = turn.then(() => taking.takeOver([candidate]));
    await turn;
  });
  await Promise.all(each);
}

async function withImage(
  { device, opening }: { readonly device: UnservedDevice; readonly opening: Opening },
  note: Note,
): Promise<Candidate> {
  const found = await Promise.race([opening.result, opening.late.then(() => undefined)]);
  if (found === undefined) return { ...device, opening, image: undefined, loss: undefined };
  if (!("why" in found)) return { ...device, opening, image: found, loss: undefined };
  note(found.why);
  return { ...device, opening, image: undefined, loss: found };
}

const describeLeft = ({ record, index }: UnservedDevice): string =>
  `nbd${index} (${record.image.path}) was left by manager ${record.manager.pid}, which is dead`;

class TakingOver {
  readonly #needed: readonly ProcessIdentity[];
  readonly #context: AdoptionContext;
  readonly #note: Note;

  constructor(needed: readonly ProcessIdentity[], context: AdoptionContext, note: Note) {
    this.#needed = needed;
    this.#context = context;
    this.#note = note;
  }

  /** Pids of those that run and did not answer. Reattached workers are not ended in any case. */
  alive(workers: readonly ProcessIdentity[]): number[] {
    return workers
      .filter((worker) => !this.#context.reattachedPids.includes(worker.pid) && isAlive(worker))
      .map(({ pid }) => pid);
  }

  /** Continues those that can be and keeps the others. With `silent`, their workers and these are ended first. */
  async takeOver(candidates: readonly Candidate[], silent?: readonly ProcessIdentity[]): Promise<void> {
    const { mendable, spared } = this.#chooseMendable(candidates);
    if (silent !== undefined) {
      // Workers in records, too: managers of former versions named the sockets of workers differently.
      const workers = [...mendable.flatMap(({ record }) => record.workers), ...silent];
      await this.end(workers.filter(({ pid }) => !spared.has(pid)));
    }
    for (const one of candidates) {
      const { record, index, image } = one;
      if (image === undefined || !mendable.includes(one)) this.#keep(one);
      else {
        this.#note(`${describeLeft(one)}: taken over`);
        await this.#context
          .adopt(record, imageOf(record, image.fd, image.spec), index, [])
          .catch((error: unknown) => {
            this.#note(cannotContinue(record, index, error));
            keepUncontinued(this.#context, record, index, [], error);
          });
      }
    }
  }

  /**
   * Kills the processes and waits until their sockets are closed. A zombie may still have them: only its first thread
   * has ended for sure.
   */
  async end(all: readonly ProcessIdentity[]): Promise<void> {
    const workers = all.filter(({ pid }) => !this.#context.reattachedPids.includes(pid));
    if (workers.length === 0) return;
    const isHeld = this.#context.isHeld ?? isAlive;
    for (const worker of workers.filter(isAlive)) {
      try {
        process.kill(worker.pid, "SIGKILL");
      } catch {
        // ESRCH: it has just ended by itself.
      }
    }
    const end = performance.now() + KILL_PATIENCE_MS;
    while (workers.some(isHeld) && performance.now() < end) await sleep(5);
    await sleep(SETTLE_MS);
    if (workers.some(isHeld))
      this.#note("an old worker could not be killed: reads of its devices wait until it has ended");
  }

  /**
   * The devices whose workers may be ended: their image is there, and none of their workers is needed by a device that
   * has to keep it. A device that is left out needs its own workers in turn, so this repeats until nothing changes.
   */
  #chooseMendable(candidates: readonly Candidate[]): {
    readonly mendable: readonly Candidate[];
    readonly spared: ReadonlySet<number>;
  } {
    const spared = new Set(this.alive(this.#needed));
    let mendable = [...candidates];
    for (;;) {
      const left = mendable.filter(
        ({ image, record }) =>
          image === undefined || this.alive(record.workers).some((pid) => spared.has(pid)),
      );
      if (left.length === 0) return { mendable, spared };
      for (const { record } of left) for (const pid of this.alive(record.workers)) spared.add(pid);
      mendable = mendable.filter((one) => !left.includes(one));
    }
  }

  /** Keeps a device whose workers cannot be replaced. */
  #keep(candidate: Candidate): void {
    const { record, index, image, opening } = candidate;
    const { why, awaits, remedy } = describeLoss(candidate);
    this.#note(`${describeLeft(candidate)}, and ${why}: its old worker, if any, serves on; ${remedy}`);
    const device = new LeftoverDevice(
      record,
      index,
      imageOf(record, image?.fd ?? -1),
      { servers: serversOf(record, [], this.#context), why, awaits },
      this.#context.nbd,
      this.#context.view,
    );
    this.#context.keep(device);
    if (isLate(candidate)) this.#context.awaitImage(device, opening);
  }
}

const isLate = ({ image, loss }: Candidate): boolean => image === undefined && loss === undefined;

/** Why a device is kept, what it waits for if an image can help it, and what the user can do. */
function describeLoss(candidate: Candidate): {
  readonly why: string;
  readonly awaits: string | undefined;
  readonly remedy: string;
} {
  const { record, image, loss } = candidate;
  const canBeHandedIn = record.image.type === "file";
  if (isLate(candidate)) {
    const handedIn = canBeHandedIn ? `, or hand the image in: ${HAND_IN}` : "";
    return {
      why: "its image cannot be opened yet",
      awaits:
        `${sourceUri(record.image)} cannot be opened yet: a file system on the way to it does not answer; ` +
        `the device goes on when it does${handedIn}`,
      remedy: `it goes on when the file system answers${handedIn}`,
    };
  }
  if (image !== undefined) {
    const why = "it may share its worker with a device that needs that one";
    return { why, awaits: undefined, remedy: "detach it and attach it again" };
  }
  const why = "its image is no longer what was attached";
  if (loss === undefined || !canBeHandedIn)
    return { why, awaits: undefined, remedy: "detach it and attach it again" };
  const remedy = `it goes on when it gets it back (${HAND_IN}), or detach it`;
  return { why, awaits: `${loss.why}; ${loss.remedy}`, remedy };
}
