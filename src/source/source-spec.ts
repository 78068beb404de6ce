/**
 * The description of a source in JSON, which passes it between processes together with a descriptor.
 *
 * The manager writes it at an attach, into messages to workers and into the device's record; a worker opens a Source
 * from it, also after a restart of manager and workers. It must hold no secrets: it is written to disk.
 */
import type { FileIdentity } from "./file-identity.ts";
import { FileSource } from "./file-source.ts";
import { openModuleSource } from "./module-source.ts";
import type { Source } from "./source.ts";

/** A local image; its descriptor travels with the spec. */
export interface FileSourceSpec {
  readonly type: "file";
  /**
   * Absolute path without symbolic links, for messages and for a later manager; with `isHandedIn` only a name.
   */
  readonly path: string;
  /**
   * The path does not lead to the image as the manager sees it: another mount namespace, a deleted file. A manager that
   * has lost the descriptor has to be given another one.
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

/** A source that each worker makes by loading a module. Its descriptor is the module's file, and is not used. */
export interface ModuleSourceSpec {
  readonly type: "module";
  /** Absolute path of the module. */
  readonly path: string;
  /** The view (path-view.ts) in which the path was followed at the attach; former versions did not store it. */
  readonly view?: string | undefined;
  readonly options: JsonValue;
  /** As of the attach: a worker that finds another size or identity refuses to serve. */
  readonly sizeBytes: number;
  readonly identity: string | null;
}

export type SourceSpec = FileSourceSpec | ModuleSourceSpec;

/** Size of the data of a source. */
export function sourceSizeBytes(spec: SourceSpec): number {
  return spec.type === "file" ? spec.identity.sizeBytes : spec.sizeBytes;
}

/** The number of the block device or file system that an image lies on; undefined for a module. */
export function lowerNumber(spec: SourceSpec): string | undefined {
  return spec.type === "file" ? spec.identity.device : undefined;
}

/** A spec in one word, for output. */
export function sourceUri(spec: SourceSpec): string {
  if (spec.type === "module") return `module:${spec.path}`;
  return spec.isHandedIn ? `descriptor:${spec.path}` : spec.path;
}

/**
 * Opens a source: at once for a file, later for a module. Takes over `fd` if it succeeds.
 * @throws SourceError, or rejects with one, when a module cannot be loaded or is no longer what was attached
 */
export function openSource(spec: FileSourceSpec, fd: number): Source;
export function openSource(spec: SourceSpec, fd: number): Source | Promise<Source>;
export function openSource(spec: SourceSpec, fd: number): Source | Promise<Source> {
  return spec.type === "file" ? new FileSource(fd, spec.identity, spec.path) : openModuleSource(spec, fd);
}
