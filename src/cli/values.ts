/**
 * Option values as users write them: strictly read, refused with what was got and what is wanted.
 *
 * Pure. Targets are read by manager/target.ts. The manager checks again; here the message can name the option.
 */

import { deviceIndex } from "../control/target.ts";
import { ErofsNbdError } from "../errors.ts";
import { MAX_INDEX, MAX_TIMEOUT_SECONDS } from "../limits.ts";

const WHOLE_NUMBER = /^(0|[1-9]\d{0,15})$/;

/** A refused value; `option` as the user spells it. */
export function badValue(option: string, got: string, wanted: string, hint?: string): ErofsNbdError {
  const shown = got === "" ? "an empty value" : got;
  return new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot use ${option} ${shown}: wanted ${wanted}`, { hint });
}

/** A whole number in decimal digits, nothing around them. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readWhole(option: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!WHOLE_NUMBER.test(text) || value < min || value > max) {
    throw badValue(option, text, `a whole number from ${min} to ${max}`);
  }
  return value;
}

/** Whole seconds, or `never`, which the kernel spells 0. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readTimeout(option: string, text: string): number {
  if (text === "never") return 0;
  const value = Number(text);
  if (!WHOLE_NUMBER.test(text) || value < 1 || value > MAX_TIMEOUT_SECONDS) {
    throw badValue(option, text, `whole seconds from 1 to ${MAX_TIMEOUT_SECONDS}, or never`);
  }
  return value;
}

/** A power of two from 512 to 65536. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readBlockSize(option: string, text: string): number {
  const value = Number(text);
  const fits = WHOLE_NUMBER.test(text) && value >= 512 && value <= 65_536 && (value & (value - 1)) === 0;
  if (!fits) throw badValue(option, text, "a power of two from 512 to 65536, in bytes");
  return value;
}

/** The index of a device spelled nbd3, /dev/nbd3 or 3. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readDevice(option: string, text: string): number {
  const index = deviceIndex(text);
  if (index === undefined) {
    const hint = text.startsWith("/dev/") ? "only devices of the kernel's nbd driver can be used" : undefined;
    throw badValue(option, text, "an nbd device: nbd3, /dev/nbd3 or 3", hint);
  }
  if (index > MAX_INDEX) throw badValue(option, text, `an index from 0 to ${MAX_INDEX}`);
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
  const host = match?.[1] ?? match?.[2];
  if (host === undefined) {
    const hint =
      (text.match(/:/g)?.length ?? 0) > 1 ? "put an IPv6 address into brackets: [::1]:10809" : undefined;
    throw badValue(option, text, "HOST, HOST:PORT or [IPV6]:PORT", hint);
  }
  const port = match?.[3];
  return { host, port: port === undefined ? NBD_PORT : readWhole(`${option} port`, port, 1, 65_535) };
}
