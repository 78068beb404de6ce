/**
 * Socket activation: a service manager, or a client that starts its own server, passes listening sockets as descriptors
 * from 3 on, and says so in LISTEN_FDS and LISTEN_PID (sd_listen_fds(3)).
 *
 * Used by `serve`. The variables are removed, so that no child process takes them for its own.
 */
import { check } from "../libc/bind.ts";
import { closeOnExec, setNonBlocking } from "../libc/files.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  SO_ACCEPTCONN,
  SO_TYPE,
  SOCK_STREAM,
  SOL_SOCKET,
  socketName,
  socketOption,
} from "../libc/sockets.ts";

/** The first descriptor that is passed (SD_LISTEN_FDS_START). */
export const FIRST_ACTIVATED_FD = 3;

const VARIABLES = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"] as const;

/** Reads and removes the variables. Returns how many descriptors were passed to this process. */
export function takeActivatedCount(
  environment: NodeJS.ProcessEnv = process.env,
  pid: number = process.pid,
): number {
  const [fds, forPid] = VARIABLES.map((name) => environment[name]);
  for (const name of VARIABLES) delete environment[name];
  if (Number(forPid) !== pid) return 0;
  return /^[1-9]\d{0,5}$/.test(fds ?? "") ? Number(fds) : 0;
}

/** Where a socket listens: a path (an abstract one begins with `@`), or a TCP address. */
export type SocketPlace = { readonly path: string } | { readonly host: string; readonly port: number };

/** Why a descriptor is no listening stream socket; undefined if it is one. */
export function whyNotListening(fd: number): string | undefined {
  const type = socketOption(fd, SOL_SOCKET, SO_TYPE);
  if (type < 0) return "it is no socket";
  if (type !== SOCK_STREAM) return "it is no stream socket";
  return socketOption(fd, SOL_SOCKET, SO_ACCEPTCONN) === 1 ? undefined : "it does not listen";
}

/** Makes a passed socket non-blocking and close-on-exec, and tells where it listens. @throws SystemError */
export function adoptListening(fd: number): SocketPlace {
  check("fcntl F_SETFL", setNonBlocking(fd));
  check("fcntl F_SETFD", closeOnExec(fd));
  return placeOf(socketName(fd));
}

function placeOf(address: Uint8Array): SocketPlace {
  const view = new DataView(address.buffer, address.byteOffset, address.length);
  const family = view.getUint16(0, true);
  if (family === AF_INET) return { host: [...address.subarray(4, 8)].join("."), port: view.getUint16(2) };
  if (family === AF_INET6) {
    const groups = Array.from({ length: 8 }, (_, index) => view.getUint16(8 + 2 * index).toString(16));
    const host = new URL(`http://[${groups.join(":")}]/`).hostname.slice(1, -1);
    return { host, port: view.getUint16(2) };
  }
  if (family !== AF_UNIX) return { path: `address family ${family}` };
  const name = address.subarray(2);
  const isAbstract = name[0] === 0 && name.length > 1;
  const end = name.indexOf(0);
  const text = new TextDecoder().decode(
    isAbstract ? name.subarray(1) : name.subarray(0, end < 0 ? undefined : end),
  );
  return { path: isAbstract ? `@${text}` : text };
}
