/**
 * Parses the options that `attach` and a mount have in common.
 *
 * Pure. `attach` spells them --NAME, a mount option list nbd.NAME. Errors use the user's spelling.
 */
import type { AttachParams } from "../../control/protocol.ts";
import { ErofsNbdError, invalidValue } from "../../errors.ts";
import {
  DEFAULT_HANG_TIMEOUT_MS,
  MAX_CONNECTIONS,
  MAX_TIMEOUT_SECONDS,
  MIN_HANG_TIMEOUT_MS,
} from "../../limits.ts";
import { readBlockSize, readDevice, readTimeout, readWhole } from "../values.ts";

/** The options as text. */
export interface AttachWords {
  readonly netlink?: true;
  readonly ioctl?: true;
  readonly device?: string;
  readonly connections: string;
  readonly blockSize?: string;
  readonly timeout: string;
  readonly deadTimeout: string;
  readonly ioTimeout: string;
  readonly hangTimeout: string;
}

/** The defaults, as text. */
export const DEFAULTS: Readonly<
  Record<"connections" | "timeout" | "deadTimeout" | "ioTimeout" | "hangTimeout", string>
> = {
  connections: "1",
  timeout: "never",
  deadTimeout: "86400",
  ioTimeout: "1000",
  hangTimeout: String(DEFAULT_HANG_TIMEOUT_MS),
};

/** The parameters of an attach request, without the image. */
export type DeviceParams = Omit<AttachParams, "image" | "forMount">;

/**
 * @param prefix the spelling of an option's beginning, for errors
 * @throws ErofsNbdError ERR_BAD_ARGUMENT
 */
export function readAttachParams(words: AttachWords, prefix: "--" | "nbd." = "--"): DeviceParams {
  const { device, blockSize } = words;
  if (words.netlink && words.ioctl) {
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", "options --netlink and --ioctl are mutually exclusive");
  }
  const connections = readWhole(`${prefix}connections`, words.connections, 1, MAX_CONNECTIONS);
  if (words.ioctl && connections > 1) {
    throw invalidValue("--connections", words.connections, "1 with --ioctl, which has a single link");
  }
  return {
    interface: words.ioctl ? "ioctl" : words.netlink ? "netlink" : "any",
    index: device === undefined ? null : readDevice(`${prefix}device`, device),
    connections,
    blockSizeBytes: blockSize === undefined ? null : readBlockSize(`${prefix}block-size`, blockSize),
    timeoutSeconds: readTimeout(`${prefix}timeout`, words.timeout),
    deadTimeoutSeconds: readWhole(`${prefix}dead-timeout`, words.deadTimeout, 0, MAX_TIMEOUT_SECONDS),
    ioTimeoutMs: readWhole(`${prefix}io-timeout`, words.ioTimeout, 1, MAX_TIMEOUT_SECONDS * 1000),
    hangTimeoutMs: readWhole(
      `${prefix}hang-timeout`,
      words.hangTimeout,
      MIN_HANG_TIMEOUT_MS,
      MAX_TIMEOUT_SECONDS * 1000,
    ),
  };
}
