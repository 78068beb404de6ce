/**
 * `serve`: runs the read-serving loop as an ordinary NBD server in this process, until a signal.
 *
 * Needs neither root nor the kernel's nbd driver. The export has the exact size of the image, without padding.
 */
import { type Command, Option } from "commander";
import { invalidValue } from "../../errors.ts";
import { openChecked } from "../../manager/image-inspection.ts";
import { DEFAULT_MAX_CLIENTS, NbdServer } from "../../serving/nbd-server.ts";
import { openSource, sourceUri } from "../../source/source-spec.ts";
import { close } from "../../sys/libc/files.ts";
import { takeActivatedCount } from "../../sys/sockets/activation.ts";
import { printable } from "../../text/printable.ts";
import type { CliContext } from "../context.ts";
import { formatJson } from "../output.ts";
import { listenAt, readPlace } from "../serve/listening.ts";
import { readWhole } from "../values.ts";

interface Options {
  readonly socket?: string;
  readonly listen?: string;
  readonly name?: string;
  readonly maxConnections: string;
  readonly json?: true;
}

const MAX_EXPORT_NAME_BYTES = 4096;
/** More than the usual limit of descriptors of a process. */
const MAX_MAX_CLIENTS = 100_000;

const HELP = `
Examples:
  erofs-nbd serve --socket /tmp/image.sock image.erofs
  erofs-nbd serve --listen 127.0.0.1:10809 --name image image.erofs
  nbdinfo 'nbd+unix:///?socket=/tmp/image.sock'
  nbdinfo -- [ erofs-nbd serve image.erofs ]

The default port is 10809. Any client that reaches the address can read the image. Ctrl-C ends the server.
Without --socket and --listen it serves on the socket that systemd, or a client, passes to it (LISTEN_FDS).`;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<IMAGE>", "path of the image, /dev/stdin or /proc/self/fd/N")
    .option("--socket <PATH>", "listen on a unix socket")
    .option("--listen <HOST:PORT>", "listen on a TCP address; IPv6 in brackets")
    .option("--name <EXPORT>", "the export's name (default: the empty name)")
    .addOption(
      new Option("--max-connections <N>", "limit of concurrent clients; further ones are rejected").default(
        String(DEFAULT_MAX_CLIENTS),
        String(DEFAULT_MAX_CLIENTS),
      ),
    )
    .option("--json", "print the export as an object, once clients can connect")
    .addHelpText("after", HELP)
    .action((image: string, options: Options) => run(context, image, options));
}

async function run(context: CliContext, path: string, options: Options): Promise<void> {
  const { name = "" } = options;
  const place = readPlace(options, takeActivatedCount());
  if (Buffer.byteLength(name) > MAX_EXPORT_NAME_BYTES) {
    throw invalidValue("--name", `${name.slice(0, 20)}…`, `at most ${MAX_EXPORT_NAME_BYTES} bytes`);
  }
  const maxClients = readWhole("--max-connections", options.maxConnections, 1, MAX_MAX_CLIENTS);
  const image = openChecked(path, null, false);
  const stopped = context.interrupts.wait();
  const listening = await closingOnError(image.fd, () => listenAt(place, name));
  const source = openSource(image.spec, image.fd);
  const log = (level: "info" | "warn" | "error", message: string): void => {
    if (level !== "info" || context.isVerbose) process.stderr.write(`${level}: ${printable(message)}\n`);
  };
  const server = new NbdServer(listening.fd, source, name, { log }, maxClients);
  process.stderr.write(`serving ${printable(path)} at ${printable(listening.uri)}\n`);
  if (options.json) {
    const { uri } = listening;
    const served = {
      uri,
      image: sourceUri(image.spec),
      sizeBytes: source.sizeBytes,
      exact: server.exactness?.exact ?? null,
      export: name,
      pid: process.pid,
    };
    await context.print(formatJson(served));
  }
  await stopped;
  server.close();
  source.close();
  listening.cleanUp();
}

async function closingOnError<T>(fd: number, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    close(fd);
    throw error;
  }
}
