/**
 * Output that several commands share: an attached device, the status table, and events.
 *
 * Pure except for `printAttached`. JSON objects are passed through as the manager sends them.
 */
import type { DeviceEvent, DeviceStatus } from "../control/protocol.ts";
import { formatDuration } from "../text/durations.ts";
import { printable } from "../text/printable.ts";
import { formatSize } from "../text/sizes.ts";
import type { CliContext } from "./context.ts";

/** Prints the device node, or with `json` the status object. */
export async function printAttached(context: CliContext, device: DeviceStatus, json: boolean): Promise<void> {
  await context.print(json ? formatJson(device) : (device.device ?? `nbd${device.index}`));
}

/** Indented JSON. */
export function formatJson(value: unknown): string {
  return JSON.stringify(value, null, 2);
}

const COLUMNS = [
  "DEVICE",
  "STATE",
  "SIZE",
  "IMAGE",
  "MOUNTED ON",
  "LINKS",
  "EXACT",
  "REQUESTS",
  "FAILOVERS",
  "LAST FAILOVER",
] as const;

/**
 * The table of `status`: a header and one line per device, with two spaces between columns. A device that is stalled,
 * or whose image has changed, has the reason on an indented line below.
 */
export function formatTable(devices: readonly DeviceStatus[]): string {
  const rows = [[...COLUMNS], ...devices.map((device) => toRow(device).map(printable))];
  const widths = COLUMNS.map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  const [heads = "", ...lines] = rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  const withReasons = devices.flatMap((device, at) => {
    const reason = stalledReason(device) ?? changedReason(device);
    return [lines[at] ?? "", ...(reason === undefined ? [] : [`    ${reason}`])];
  });
  return [heads, ...withReasons].join("\n");
}

/** Why a device is stalled, as one line; undefined when it is served. */
export function stalledReason(device: DeviceStatus): string | undefined {
  // Former managers do not send it.
  const reason = device.stalledReason ?? null;
  return reason === null ? undefined : `stalled: ${printable(reason)}`;
}

/** How the image of a served device has changed, so that reads fail; undefined while it is unchanged. */
function changedReason({ imageChange = null }: DeviceStatus): string | undefined {
  return imageChange === null ? undefined : `reads fail: the image has changed: ${printable(imageChange)}`;
}

function toRow(device: DeviceStatus): string[] {
  const { counters, lastFailover, links } = device;
  const failovers = counters.takeovers + counters.reconnects;
  const failed =
    counters.failedFailovers > 0 ? `${failovers} (${counters.failedFailovers} failed)` : `${failovers}`;
  return [
    device.device ?? "-",
    device.interface === "ioctl" ? `${device.state} (ioctl)` : device.state,
    formatSize(device.source.sizeBytes),
    device.source.uri,
    device.mountPoints.join(" ") || "-",
    formatLinks(links),
    // Former managers do not send it.
    device.exact ?? "-",
    `${counters.requests}`,
    failed,
    lastFailover === null
      ? "-"
      : `${lastFailover.result} in ${formatDuration(lastFailover.stallMs)}, ${lastFailover.at}: ${lastFailover.cause}`,
  ];
}

function formatLinks(links: DeviceStatus["links"]): string {
  const up = links.filter((link) => link.state === "up");
  const workers = [...new Set(up.map((link) => link.workerPid))];
  const served = workers.length === 0 ? "" : ` (worker ${workers.join(", ")})`;
  return `${up.length}/${links.length}${served}`;
}

/** One event of `status --watch` as text. */
export function formatEvent(event: DeviceEvent): string {
  return printable(`${event.at}  ${event.device ?? "-"}  ${whatHappened(event)}`);
}

function whatHappened(event: DeviceEvent): string {
  switch (event.event) {
    case "attached":
      return `attached: ${event.image}`;
    case "state":
      return `${event.state} (was ${event.before})`;
    case "failover":
      return `failover ${event.result} by ${event.level} after ${formatDuration(event.stallMs)}: ${event.cause}`;
    case "revived":
      return "revived: reads are answered again";
    case "moved":
      return `worker ${event.workerPid} serves it now: reads waited ${formatDuration(event.stallMs)}`;
    case "read-errors":
      return `${event.count} read(s) failed: ${event.message}`;
    default:
      return `${event.event}: ${event.message}`;
  }
}
