/**
 * Where `serve` listens: on a unix socket, on a TCP address, or on a socket that was passed to it.
 *
 * Used by the command. Each way in which that can fail has one error here.
 */
import { lstatSync, unlinkSync } from "node:fs";
import { resolve } from "node:path";
import { ErofsNbdError } from "../../errors.ts";
import {
  adoptListening,
  FIRST_ACTIVATED_FD,
  type SocketPlace,
  whyNotListening,
} from "../../sys/sockets/activation.ts";
import { isListening, listenTcp, listenUnix } from "../../sys/sockets/listen.ts";
import { type ListenAddress, readListenAddress, readPath } from "../values.ts";

/** A listening socket, its URI for clients, and the removal of its file. */
interface Listening {
  readonly fd: number;
  readonly uri: string;
  cleanUp(): void;
}

/** What the command line asks for; "passed" is the socket of LISTEN_FDS. */
export type ServePlace = SocketPlace | "passed";

/**
 * Chooses between the options and the descriptors that were passed.
 * @throws ErofsNbdError ERR_BAD_ARGUMENT unless there is exactly one place
 */
export function readPlace(
  { socket, listen }: { readonly socket?: string; readonly listen?: string },
  passedCount: number,
): ServePlace {
  const isNamed = socket !== undefined || listen !== undefined;
  if (passedCount > 0 && isNamed)
    throw new ErofsNbdError(
      "ERR_BAD_ARGUMENT",
      "cannot serve: a socket was passed (LISTEN_FDS), and an option names another one",
      { hint: "leave out --socket and --listen, or unset LISTEN_FDS" },
    );
  if (passedCount > 1)
    throw new ErofsNbdError(
      "ERR_BAD_ARGUMENT",
      `cannot serve: ${passedCount} sockets were passed (LISTEN_FDS), expected one`,
      { hint: "write one ListenStream= into the socket unit" },
    );
  if (passedCount === 1) return "passed";
  if (!isNamed || (socket !== undefined && listen !== undefined))
    throw new ErofsNbdError(
      "ERR_BAD_ARGUMENT",
      "cannot serve: name one of --socket PATH and --listen HOST:PORT",
    );
  return socket === undefined
    ? readListenAddress("--listen", listen ?? "")
    : { path: readPath("--socket", socket) };
}

/** Listens there. @throws ErofsNbdError */
export async function listenAt(place: ServePlace, name: string): Promise<Listening> {
  if (place === "passed") return listenOnPassed(name);
  return "path" in place ? listenOnPath(resolve(place.path), name) : await listenOnAddress(place, name);
}

/** The file of a passed socket is its owner's. */
function listenOnPassed(name: string): Listening {
  const fd = FIRST_ACTIVATED_FD;
  const why = whyNotListening(fd);
  if (why !== undefined)
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot serve on descriptor ${fd} (LISTEN_FDS): ${why}`, {
      hint: "pass a listening stream socket: ListenStream= and Accept=no in a socket unit",
    });
  return { fd, uri: uriOf(adoptListening(fd), name), cleanUp: () => {} };
}

function uriOf(place: SocketPlace, name: string): string {
  const path = encodeURIComponent(name);
  if ("path" in place)
    return `nbd+unix:///${path}?socket=${encodeURI(place.path).replace(/[?#&+]/g, encodeURIComponent)}`;
  const host = place.host.includes(":") ? `[${place.host}]` : place.host;
  return `nbd://${host}:${place.port}/${path}`;
}

async function listenOnAddress({ host, port }: ListenAddress, name: string): Promise<Listening> {
  try {
    const fd = await listenTcp(host, port);
    return { fd, uri: uriOf({ host, port }, name), cleanUp: () => {} };
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
      uri: uriOf({ path }, name),
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
