/**
 * How a source crosses a process border: a description in JSON, with the descriptor it needs beside it.
 *
 * The manager writes one when it attaches an image, into messages to workers and into the device's record; a worker
 * turns it into a Source, now or after a restart of everything. Holds no secrets: whatever is in it is written to disk.
 */
import type { FileIdentity } from "./file-identity.ts";
import { FileSource } from "./file-source.ts";
import { openModuleSource } from "./module-source.ts";
import type { Source } from "./source.ts";

/** A local image; its descriptor travels with the spec. */
export interface FileSourceSpec {
  readonly type: "file";
  /**
   * Absolute path without symbolic links, for messages and for a later manager; with `isHandedIn` no more than a
   * name.
   */
  readonly path: string;
  /**
   * The path does not lead to the image, or not from where the manager is: another mount namespace, a deleted file.
   * A manager that has lost the descriptor has to be handed another one.
   */
  readonly isHandedIn?: true | undefined;
  readonly identity: FileIdentity;
}

/** Anything that survives JSON. */
export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue };

/** What every worker makes by loading a module; the descriptor that travels with it is the module's file, and not needed. */
export interface ModuleSourceSpec {
  readonly type: "module";
  /** Absolute path of the module. */
  readonly path: string;
  /** From where the path was followed at the attach (path-view.ts); former versions did not note it. */
  readonly view?: string | undefined;
  readonly options: JsonValue;
  /** As of the attach: a worker that gets another size, or another identity, refuses to serve. */
  readonly sizeBytes: number;
  readonly identity: string | null;
}

export type SourceSpec = FileSourceSpec | ModuleSourceSpec;

/** Size of the data that a spec describes. */
export function sourceSizeBytes(spec: SourceSpec): number {
  return spec.type === "file" ? spec.identity.sizeBytes : spec.sizeBytes;
}

/** A spec in one word, for users. */
export function sourceUri(spec: SourceSpec): string {
  if (spec.type === "module") return `module:${spec.path}`;
  return spec.isHandedIn ? `descriptor:${spec.path}` : spec.path;
}

/**
 * Opens what a spec describes: at once for a file, later for a module. Takes `fd` over, when it succeeds.
 * @throws SourceError, or rejects with one, when a module cannot be loaded or is no longer what was attached
 */
export function openSource(spec: FileSourceSpec, fd: number): Source;
export function openSource(spec: SourceSpec, fd: number): Source | Promise<Source>;
export function openSource(spec: SourceSpec, fd: number): Source | Promise<Source> {
  return spec.type === "file" ? new FileSource(fd, spec.identity, spec.path) : openModuleSource(spec, fd);
}
