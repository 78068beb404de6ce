/**
 * How a source crosses a process border: a description in JSON, with the descriptors it needs beside it.
 *
 * The manager writes one when it attaches an image; a worker turns it into a Source. Both ends are this
 * program, so a spec is a type, not a format for others.
 */
import type { FileIdentity } from "./file-identity.ts";
import { FileSource } from "./file-source.ts";
import type { Source } from "./source.ts";

/** A local image; its descriptor travels with the spec. */
export interface FileSourceSpec {
  readonly type: "file";
  /** Absolute path, for messages and for a later manager. */
  readonly path: string;
  readonly identity: FileIdentity;
}

export type SourceSpec = FileSourceSpec;

/** Opens what a spec describes; takes `fd` over. */
export function openSource(spec: SourceSpec, fd: number): Source {
  return new FileSource(fd, spec.identity, spec.path);
}
