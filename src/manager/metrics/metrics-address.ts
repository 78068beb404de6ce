/**
 * Parses the address that metrics are offered at besides the unix socket.
 *
 * Used by the command line. Only loopback addresses are accepted, because a TCP peer has no credentials to check.
 */
import { isIPv4, isIPv6 } from "node:net";
import { invalidValue } from "../../errors.ts";

export interface LoopbackAddress {
  /** An address of 127.0.0.0/8, or ::1. */
  readonly host: string;
  readonly port: number;
}

/** HOST:PORT, where HOST is `localhost`, 127.x.x.x or [::1]. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function parseLoopbackAddress(option: string, text: string): LoopbackAddress {
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const given = match?.[1] ?? match?.[2] ?? "";
  const host = given.toLowerCase() === "localhost" ? "127.0.0.1" : given;
  if (match === null || port < 1 || port > 65_535 || host === "") {
    throw invalidValue(option, text, "HOST:PORT", "for instance 127.0.0.1:9809 or [::1]:9809");
  }
  const isLoopback = (isIPv4(host) && host.startsWith("127.")) || (isIPv6(host) && isIPv6Loopback(host));
  if (isLoopback) return { host, port };
  throw invalidValue(
    option,
    text,
    "a loopback address",
    "listen on 127.0.0.1 or [::1], and put an authenticating proxy in front of it",
  );
}

/** `::1` in any spelling. */
const isIPv6Loopback = (host: string): boolean => /^(?:0{0,4}:){2,7}0{0,3}1$/.test(host);
