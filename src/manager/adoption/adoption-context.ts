/**
 * What adoption gets from the manager, and what its files share.
 */
import type { DeviceView } from "../../kernel/device-view.ts";
import type { Log } from "../../log/log.ts";
import { HAND_IN } from "../../opener/reopen-image.ts";
import type { FoundLink } from "../../pool/links/found-link.ts";
import type { ManagedDevice } from "../../supervisor/managed-device.ts";
import type { Image, NbdCommands } from "../../supervisor/ports.ts";
import type { ProcessIdentity } from "../../sys/process-identity.ts";
import { type DeviceRecord, imageOf } from "../records/record.ts";
import { LeftoverDevice } from "./leftover-device.ts";
import type { Opening, RecordedSource } from "./recorded-image.ts";
import type { SilentWorkers } from "./silent-workers.ts";

/** The part of a DeviceView that adoption uses. */
export type AdoptionView = Pick<
  DeviceView,
  "findByBackend" | "backendOf" | "configuringThread" | "readsInFlight"
>;

export interface AdoptionContext {
  readonly log: Log;
  readonly nbd: Pick<NbdCommands, "disconnect">;
  /** The links of the reattached workers. */
  readonly links: readonly FoundLink[];
  /** The reattached workers. They belong to this manager now and are not ended. */
  readonly reattachedPids: readonly number[];
  /** Workers of a former manager that run and did not answer. */
  readonly silent: readonly ProcessIdentity[];
  /** Continues a netlink device with these links, or with none. Takes the image's descriptor over. */
  readonly adopt: (
    record: DeviceRecord,
    image: Image,
    index: number,
    links: readonly FoundLink[],
  ) => Promise<void>;
  /** Begins to open the image of a record, without waiting for it. */
  readonly open: (record: RecordedSource) => Opening;
  /** Continues a device that is kept when its image has been opened after all. */
  readonly awaitImage: (device: LeftoverDevice, opening: Opening) => void;
  /** Keeps a device that can only be shown and detached. */
  readonly keep: (device: ManagedDevice) => void;
  /**
   * Keeps devices whose links a silent worker may have, until it answers. Without this, silent workers are killed where
   * a device needs another.
   */
  readonly awaitWorkers?: Pick<SilentWorkers, "keep" | "isAwaited" | "start">;
  /** Whether a process still has the sockets of a worker's links; by default, whether it is alive. */
  readonly isHeld?: (worker: ProcessIdentity) => boolean;
  /** What the kernel shows; sysfs by default. */
  readonly view?: AdoptionView;
}

/** Adds a line for the user and the log. */
export type Note = (message: string) => void;

/** The note about a device that could not be continued. */
export const cannotContinue = ({ image }: DeviceRecord, index: number, error: unknown): string =>
  `cannot continue nbd${index} (${image.path}): ${String(error)}`;

/** The workers that may serve a record's device: those whose links it has, or all that have not answered. */
export function serversOf(
  { workers }: DeviceRecord,
  links: readonly FoundLink[],
  { reattachedPids }: AdoptionContext,
): ProcessIdentity[] {
  const pids = new Set(links.map(({ workerPid }) => workerPid));
  return workers.filter(({ pid }) => (pids.size > 0 ? pids.has(pid) : !reattachedPids.includes(pid)));
}

/**
 * Keeps a device that could not be continued, such as one whose journal was made by another version. Its worker serves
 * on; when that has ended, the device is continued with fresh links.
 */
export function keepUncontinued(
  context: AdoptionContext,
  record: DeviceRecord,
  index: number,
  links: readonly FoundLink[],
  error: unknown,
): void {
  const why = error instanceof Error ? error.message : String(error);
  const device = new LeftoverDevice(
    record,
    index,
    imageOf(record, -1),
    { servers: serversOf(record, links, context), why, awaits: `${why}; hand the image in: ${HAND_IN}` },
    context.nbd,
    context.view,
  );
  context.keep(device);
  if (links.length > 0) context.awaitImage(device, context.open(record));
}
