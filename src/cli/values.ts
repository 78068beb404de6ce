/**
 * Strict parsers for option values. Each error names the option, the value and what is expected.
 *
 * Pure. Used by the commands and by mount options. control/target.ts parses targets. The manager validates again; only
 * here the message can name the option.
 */

import { isIPv6 } from "node:net";
import { deviceIndex } from "../control/target.ts";
import { invalidValue } from "../errors.ts";
import { MAX_INDEX, MAX_TIMEOUT_SECONDS } from "../limits.ts";

const INTEGER = /^(0|[1-9]\d{0,15})$/;

/** A non-negative integer in decimal digits, without sign or blanks. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readWhole(option: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!INTEGER.test(text) || value < min || value > max) {
    throw invalidValue(option, text, `an integer from ${min} to ${max}`);
  }
  return value;
}

/**
 * A path that is not empty: an unset variable in a script must not name the current directory.
 * @throws ErofsNbdError ERR_BAD_ARGUMENT
 */
export function readPath(name: string, text: string): string {
  if (text === "") throw invalidValue(name, text, "a path");
  return text;
}

/** Whole seconds, or `never`, which is 0 for the kernel. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readTimeout(option: string, text: string): number {
  if (text === "never") return 0;
  const value = Number(text);
  if (!INTEGER.test(text) || value < 1 || value > MAX_TIMEOUT_SECONDS) {
    throw invalidValue(option, text, `an integer from 1 to ${MAX_TIMEOUT_SECONDS} (seconds), or never`);
  }
  return value;
}

/** A power of two from 512 to 65536. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readBlockSize(option: string, text: string): number {
  const value = Number(text);
  const fits = INTEGER.test(text) && value >= 512 && value <= 65_536 && (value & (value - 1)) === 0;
  if (!fits) throw invalidValue(option, text, "a power of two from 512 to 65536, in bytes");
  return value;
}

/** The index of a device spelled nbd3, /dev/nbd3 or 3. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readDevice(option: string, text: string): number {
  const index = deviceIndex(text);
  if (index === undefined) {
    const hint = text.startsWith("/dev/") ? "only devices of the kernel's nbd driver can be used" : undefined;
    throw invalidValue(option, text, "an nbd device: nbd3, /dev/nbd3 or 3", hint);
  }
  if (index > MAX_INDEX) throw invalidValue(option, text, `an index from 0 to ${MAX_INDEX}`);
  return index;
}

/** Where `serve --listen` listens. */
export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** The port that IANA gave NBD. */
export const NBD_PORT = 10_809;

/** HOST, HOST:PORT, [IPV6] or [IPV6]:PORT. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readListenAddress(option: string, text: string): ListenAddress {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^[\]:/\s]+))(?::([^:]*))?$/.exec(text);
  const bracketed = match?.[1];
  const host = bracketed ?? match?.[2];
  if (host === undefined || (bracketed !== undefined && !isIPv6(bracketed))) {
    const hint =
      (text.match(/:/g)?.length ?? 0) > 1 ? "write an IPv6 address in brackets: [::1]:10809" : undefined;
    throw invalidValue(option, text, "HOST, HOST:PORT or [IPV6]:PORT", hint);
  }
  const port = match?.[3];
  return { host, port: port === undefined ? NBD_PORT : readWhole(`${option} port`, port, 1, 65_535) };
}
