/**
 * The arguments of attach(): the options of the command line, with units in their names.
 *
 * Used by attach and NbdManager. Turns them into a request, which the manager validates. Values that the request could
 * not express are rejected here. Loads nothing.
 */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { AttachParams } from "../control/protocol.ts";
import { invalidArgument, invalidValue } from "../errors.ts";
import { DEFAULT_HANG_TIMEOUT_MS } from "../limits.ts";
import type { JsonValue } from "../source/source-spec.ts";
import {
  checkOptions,
  type OptionKind,
  oneOf,
  SIGNAL,
  show,
  unknownOption,
  WHOLE,
  WHOLE_OR_NEVER,
} from "./option-checks.ts";

/**
 * A custom source: a module that exports `open` (see {@link OpenCustomSource}), which every worker loads, and the
 * options for the call. `module` is a path relative to the current directory, or a `file:` URL such as
 * `new URL("./my-source.js", import.meta.url)`.
 *
 * The workers' user must be able to read the module and its files. Options are passed as JSON, at most 16 KiB, and are
 * written to the run directory, so they must not contain secrets.
 */
export interface SourceModule {
  readonly module: string | URL;
  readonly options?: JsonValue | object;
}

/** An image by its path or `file:` URL, or a custom source. */
export type AttachSource = string | URL | SourceModule;

export interface AttachOptions {
  /** `any` (default): netlink, or ioctl with a note where the kernel has no netlink family for nbd. */
  readonly interface?: "netlink" | "ioctl" | "any";
  /** N of `/dev/nbdN`; the kernel picks by default. */
  readonly index?: number;
  /** Links between kernel and workers: 1 to 64, default 1. */
  readonly connections?: number;
  /** A power of two, 512 to 65536; default: the EROFS block size, 512 for anything else. */
  readonly blockSizeBytes?: number;
  /** The kernel's request timeout in whole seconds; default `never`. */
  readonly timeoutSeconds?: number | "never";
  /** How long the kernel holds reads while no link is up, in whole seconds; default 86400. */
  readonly deadTimeoutSeconds?: number;
  /** When reads that were on a dead link are sent again; default 1000. */
  readonly ioTimeoutMs?: number;
  /** Time without progress after which a worker is replaced; default 2000, at least 1500. */
  readonly hangTimeoutMs?: number;
  /**
   * On abort the attach fails with ERR_INTERRUPTED: at once if it has not begun, else after it was finished and undone.
   */
  readonly signal?: AbortSignal;
}

const KINDS: Readonly<Record<keyof AttachOptions, OptionKind>> = {
  interface: oneOf("netlink", "ioctl", "any"),
  index: WHOLE,
  connections: WHOLE,
  blockSizeBytes: WHOLE,
  timeoutSeconds: WHOLE_OR_NEVER,
  deadTimeoutSeconds: WHOLE,
  ioTimeoutMs: WHOLE,
  hangTimeoutMs: WHOLE,
  signal: SIGNAL,
};

/**
 * The parameters of the request, with absolute paths. `more`: further options that are not sent to the manager.
 * @throws ErofsNbdError ERR_BAD_ARGUMENT
 */
export function toAttachParams(
  source: AttachSource,
  options: AttachOptions,
  more: Readonly<Record<string, OptionKind>> = {},
): AttachParams {
  checkOptions(options, { ...KINDS, ...more });
  const { timeoutSeconds = "never" } = options;
  return {
    ...toSource(source),
    interface: options.interface ?? "any",
    index: options.index ?? null,
    connections: options.connections ?? 1,
    blockSizeBytes: options.blockSizeBytes ?? null,
    timeoutSeconds: timeoutSeconds === "never" ? 0 : timeoutSeconds,
    deadTimeoutSeconds: options.deadTimeoutSeconds ?? 86_400,
    ioTimeoutMs: options.ioTimeoutMs ?? 1000,
    hangTimeoutMs: options.hangTimeoutMs ?? DEFAULT_HANG_TIMEOUT_MS,
    forMount: false,
  };
}

const OWN_SOURCE_HINT = "a custom source is a module: { module: PATH, options }";

function toSource(source: AttachSource): Pick<AttachParams, "image" | "module"> {
  if (typeof source === "string" || source instanceof URL) return { image: toPath(source) };
  if (typeof source !== "object" || source === null || !("module" in source))
    throw invalidArgument("source", show(source), "a path or a module", OWN_SOURCE_HINT);
  const odd = Object.keys(source).find((name) => name !== "module" && name !== "options");
  if (odd !== undefined) throw unknownOption(odd, OWN_SOURCE_HINT);
  const { module, options = null } = source;
  if (typeof module !== "string" && !(module instanceof URL))
    throw invalidArgument("module", show(module), "the path of a module", OWN_SOURCE_HINT);
  return { image: toPath(module), module: { options: toJson(options) } };
}

/** The options as the worker receives them. */
function toJson(options: JsonValue | object): JsonValue {
  try {
    // A value that JSON cannot express gives undefined, which does not parse.
    return JSON.parse(JSON.stringify(options)) as JsonValue;
  } catch {
    throw invalidArgument("module options", show(options), "a JSON value");
  }
}

/** The target as it is spelled on the command line. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function toTargetText(target: string | number | URL): string {
  if (typeof target === "string") return target;
  if (target instanceof URL) return toPath(target);
  // Negative and fractional numbers would be taken for paths.
  if (WHOLE.fits(target)) return `${target}`;
  throw invalidArgument("target", show(target), "a device node, an index or a path");
}

function toPath(place: string | URL): string {
  if (place === "") throw invalidValue("path", "", "the path of a file");
  if (typeof place === "string" && !place.startsWith("file:")) return resolve(place);
  try {
    return resolve(fileURLToPath(place));
  } catch {
    throw invalidValue("URL", `${place}`, "a file: URL without a host");
  }
}
