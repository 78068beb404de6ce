/**
 * `status`: prints the devices of the manager as a table or as JSON, once or, with --watch, followed by events.
 *
 * Starts a manager only if a dead one has left records, so that the new one adopts its devices.
 */
import type { Command } from "commander";
import type { Target } from "../../control/protocol.ts";
import { readTarget } from "../../control/target.ts";
import { notAttached } from "../../errors.ts";
import { findManager } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { formatJson, formatTable } from "../output.ts";

interface Options {
  readonly json?: true;
  readonly watch?: true;
}

const HELP = `
TARGET is a device (nbd3, /dev/nbd3 or 3), the path of an attached image, or a mount point.

Examples:
  sudo erofs-nbd status
  sudo erofs-nbd status --json /mnt
  sudo erofs-nbd status --watch             a live table, until q or Ctrl-C
  sudo erofs-nbd status --watch | cat       one line per event, until Ctrl-C

EXACT is how the image is protected against changes: "lease" means that no process can change it, "checked" that data is
checked against the image's timestamps before it is sent. If the image has changed, reads fail, and a line below the
device says what has changed.

The live table lists devices that are not served first, then those that failed over in the last minute. Rates are of the
last second, latencies (from receiving a request to sending its reply) of the last 2.5 to 5 seconds.

--json prints an array, with TARGET one object, with --watch one object per line. --watch continues across restarts of
the manager. It ends with exit code 0 at Ctrl-C, the table also with q. Exit code 3 if TARGET is not attached.`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("[TARGET]", "only this device")
    .option("--json", "print JSON")
    .option("--watch", "show a live table; without a terminal, or with --json, print events")
    .addHelpText("after", HELP)
    .action((target: string | undefined, options: Options) => run(context, target, options));
}

/** Whether standard output is a terminal that can show a live table. */
const canShowLive = (): boolean => process.stdout.isTTY === true && process.env["TERM"] !== "dumb";

async function run(context: CliContext, word: string | undefined, options: Options): Promise<void> {
  const target = word === undefined ? null : await readTarget(word);
  const json = options.json === true;
  if (options.watch) {
    if (!json && canShowLive()) {
      const { showLive } = await import("../live/live.ts");
      return showLive(context, target);
    }
    const { watch } = await import("../live/watch.ts");
    return watch(context, target, json);
  }
  const client = await findManager(context);
  if (client === undefined) return reportNothing(context, target, word, json);
  try {
    const { devices, notes } = await client.request("status", { target });
    for (const note of notes) context.note(note);
    if (target !== null && devices.length === 0) throw notAttached(`show ${word}`);
    if (json) {
      const single = target !== null && devices.length === 1;
      await context.print(formatJson(single ? devices[0] : devices));
    } else if (devices.length > 0) await context.print(formatTable(devices));
    else context.note("no devices attached");
  } finally {
    client.close();
  }
}

async function reportNothing(
  context: CliContext,
  target: Target | null,
  word: string | undefined,
  json: boolean,
): Promise<void> {
  if (target !== null) throw notAttached(`show ${word}`);
  if (json) await context.print("[]");
  else context.note("no devices attached");
}
