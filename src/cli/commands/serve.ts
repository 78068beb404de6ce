/**
 * `serve`: runs the read-serving loop as an ordinary NBD server in this process, until a signal.
 *
 * Needs neither root nor the kernel's nbd driver. The export has the exact size of the image, without padding.
 */
import { lstatSync, unlinkSync } from "node:fs";
import { resolve } from "node:path";
import { type Command, Option } from "commander";
import { ErofsNbdError, invalidValue } from "../../errors.ts";
import { openChecked } from "../../manager/image-inspection.ts";
import { DEFAULT_MAX_CLIENTS, NbdServer } from "../../serving/nbd-server.ts";
import type { OpenImage } from "../../source/open-image.ts";
import { openSource, sourceUri } from "../../source/source-spec.ts";
import { close } from "../../sys/libc/files.ts";
import { isListening, listenTcp, listenUnix } from "../../sys/sockets/listen.ts";
import { printable } from "../../text/printable.ts";
import type { CliContext } from "../context.ts";
import { formatJson } from "../output.ts";
import { type ListenAddress, readListenAddress, readWhole } from "../values.ts";

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

The default port is 10809. Any client that reaches the address can read the image. Ctrl-C ends the server.`;

/** A listening socket, its URI for clients, and the removal of its file. */
interface Listening {
  readonly fd: number;
  readonly uri: string;
  cleanUp(): void;
}

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
  const { socket, listen, name = "" } = options;
  if ((socket === undefined) === (listen === undefined)) {
    throw new ErofsNbdError(
      "ERR_BAD_ARGUMENT",
      "cannot serve: name one of --socket PATH and --listen HOST:PORT",
    );
  }
  if (Buffer.byteLength(name) > MAX_EXPORT_NAME_BYTES) {
    throw invalidValue("--name", `${name.slice(0, 20)}…`, `at most ${MAX_EXPORT_NAME_BYTES} bytes`);
  }
  const maxClients = readWhole("--max-connections", options.maxConnections, 1, MAX_MAX_CLIENTS);
  const address = listen === undefined ? undefined : readListenAddress("--listen", listen);
  const image = openChecked(path, null, false);
  const stopped = context.interrupts.wait();
  const listening = await listenAt(image, address, socket, name);
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

async function listenAt(
  image: OpenImage,
  address: ListenAddress | undefined,
  socket: string | undefined,
  name: string,
): Promise<Listening> {
  try {
    return address === undefined
      ? listenOnPath(resolve(socket ?? ""), name)
      : await listenOnAddress(address, name);
  } catch (error) {
    close(image.fd);
    throw error;
  }
}

async function listenOnAddress({ host, port }: ListenAddress, name: string): Promise<Listening> {
  try {
    const fd = await listenTcp(host, port);
    const uriHost = host.includes(":") ? `[${host}]` : host;
    return { fd, uri: `nbd://${uriHost}:${port}/${encodeURIComponent(name)}`, cleanUp: () => {} };
  } catch (error) {
    throw explain(`${host}:${port}`, error);
  }
}

function listenOnPath(path: string, name: string): Listening {
  try {
    removeStale(path);
    const fd = listenUnix(path);
    const { dev, ino } = lstatSync(path);
    return {
      fd,
      uri: `nbd+unix:///${encodeURIComponent(name)}?socket=${encodeURI(path).replace(/[?#&+]/g, encodeURIComponent)}`,
      cleanUp: () => {
        // Another process may have replaced the socket.
        const found = lstatSync(path, { throwIfNoEntry: false });
        if (found?.dev === dev && found.ino === ino) unlinkSync(path);
      },
    };
  } catch (error) {
    throw explain(path, error);
  }
}

/** Removes a socket without a listener, which a dead server has left. Anything else stays. */
function removeStale(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw occupied(path, "it exists and is not a socket");
  if (isListening(path)) throw occupied(path, "another server listens there");
  unlinkSync(path);
}

function occupied(path: string, why: string): ErofsNbdError {
  return new ErofsNbdError("ERR_SYSCALL", `cannot listen on ${path}: ${why}`, {
    hint: "choose another path",
  });
}

const REASONS: Record<string, [why: string, hint: string | undefined]> = {
  EADDRINUSE: ["the address is in use", "stop the other server, or choose another port"],
  EADDRNOTAVAIL: [
    "no interface of this machine has that address",
    "127.0.0.1, 0.0.0.0 and [::] always exist",
  ],
  EACCES: ["permission denied", "choose a port above 1023, or a directory you may write to"],
  ENOENT: ["the directory does not exist", "create it first"],
  ENOTFOUND: ["the host name is not known", undefined],
  EAI_AGAIN: ["the host name cannot be looked up now", undefined],
};

/** Turns errors of the system, the resolver and the checks in sys/ into an ErofsNbdError. */
function explain(place: string, error: unknown): unknown {
  if (error instanceof ErofsNbdError) return error;
  if (error instanceof RangeError)
    return new ErofsNbdError("ERR_BAD_ARGUMENT", error.message, { cause: error });
  const { errnoName, code } = error as { errnoName?: string; code?: string };
  const [why, hint] = REASONS[errnoName ?? code ?? ""] ?? [];
  if (why === undefined) return error;
  return new ErofsNbdError("ERR_SYSCALL", `cannot listen on ${place}: ${why}`, { hint, cause: error });
}
