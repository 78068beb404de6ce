/**
 * What a program says it wants attached, and how: the same words as on the command line, with units in their names.
 *
 * Turned into what the manager is asked for, which checks all of it. Loads nothing.
 */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { ErofsNbdError } from "../errors.ts";
import type { AttachParams } from "../manager/control-protocol.ts";
import { DEFAULT_HANG_TIMEOUT_MS } from "../manager/limits.ts";
import type { JsonValue } from "../source/source-spec.ts";

/**
 * A source of one's own: a module that exports `open` (see {@link OpenCustomSource}), which every worker loads, and the
 * options it is called with. `module` is a path, which starts at the current directory, or a `file:` URL such as
 * `new URL("./my-source.js", import.meta.url)`.
 *
 * Workers must be able to read the module and what it needs with the rights they have. Options are JSON of at most
 * 16 KiB and are written to the run directory: no secrets.
 */
export interface SourceModule {
  readonly module: string | URL;
  readonly options?: JsonValue;
}

/** An image by its path or `file:` URL, or a source of one's own. */
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
  /** How long a worker may serve nothing until another takes over; default 2000, at least 1500. */
  readonly hangTimeoutMs?: number;
}

/** What to ask the manager for; every path is absolute. */
export function toAttachParams(source: AttachSource, options: AttachOptions): AttachParams {
  const { timeoutSeconds = "never" } = options;
  const isModule = typeof source === "object" && !(source instanceof URL);
  return {
    image: toPath(isModule ? source.module : source),
    ...(isModule ? { module: { options: source.options ?? null } } : {}),
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

/** What the command line would be given for it. @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function toTargetText(target: string | number | URL): string {
  if (typeof target === "string") return target;
  if (target instanceof URL) return toPath(target);
  // Anything negative, broken or else would be taken for a path.
  if (typeof target === "number" && Number.isSafeInteger(target) && target >= 0) return `${target}`;
  throw new ErofsNbdError(
    "ERR_BAD_ARGUMENT",
    `Cannot find a device: ${inspect(target)} is neither a node, an index nor a path`,
  );
}

function toPath(place: string | URL): string {
  return resolve(place instanceof URL || place.startsWith("file:") ? fileURLToPath(place) : place);
}
