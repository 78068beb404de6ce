/**
 * Clears what belongs to no device: links without a record, and journals of links that are gone.
 *
 * Used once, when a manager starts.
 */
import { readdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import type { DeviceView } from "../../kernel/device-view.ts";
import type { FoundLink } from "../../pool/links/found-link.ts";

/** Removes the journals that no reattached link uses: their manager died before it could. */
export function removeUnusedJournals(directory: string, links: readonly FoundLink[]): void {
  const used = new Set(links.map(({ journalPath }) => basename(journalPath)));
  for (const name of readdirSync(directory)) {
    if (!used.has(name)) rmSync(join(directory, name), { force: true, recursive: true });
  }
}

/**
 * Closes a link without a record: its device has ended, or was never connected. A link is left to its worker where
 * its device exists, or may exist (a record could not be read): reads of the device must go on.
 */
export function releaseUnclaimed(
  link: FoundLink,
  hasUnreadableRecords: boolean,
  view: Pick<DeviceView, "findByBackend">,
  note: (message: string) => void,
): void {
  const index = view.findByBackend(link.device);
  if (index === undefined && !hasUnreadableRecords) return link.close();
  if (index !== undefined)
    note(`nbd${index} is served by worker ${link.workerPid} and has no record: left alone`);
  link.leave();
}
