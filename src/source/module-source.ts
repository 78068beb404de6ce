/**
 * A custom source: a module that every worker can load, and that opens a virtual file.
 *
 * It runs only in workers, with a worker's rights; the manager never loads one. An error that it throws is an I/O error
 * of the read. When a worker is killed the next one loads the module again, so a source is described by a module and
 * options instead of an object of one process.
 */
import { statSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { MAX_IMAGE_BYTES } from "../limits.ts";
import { close } from "../sys/libc/files.ts";
import { type FileExtent, type Source, SourceError } from "./source.ts";
import type { JsonValue, ModuleSourceSpec } from "./source-spec.ts";

/**
 * What a module's `open` returns: a virtual file of fixed size and content.
 *
 * The bytes at an offset must never change, in any worker: the kernel's page cache relies on it, and a read that was in
 * progress when a worker died is repeated by another.
 */
export interface CustomSource {
  /** Whole bytes, at least 1. */
  readonly sizeBytes: number;
  /**
   * Identifies the data, such as a checksum or an ETag. Workers that find another identity than at the attach refuse to
   * serve. At most 256 characters.
   */
  readonly identity?: string;
  /**
   * Fills all of `target` with the bytes from `offsetBytes`, or throws: the reader gets EIO, and the log a line. The
   * range lies inside the source. May return a promise; then reads run concurrently, in any order. May return (or
   * resolve with) the number of bytes filled, as `fs.readSync` does; fewer than asked for is an error. `target` is a
   * part of a larger buffer: fill it, not `target.buffer`, and do not keep it.
   */
  read(target: Uint8Array, offsetBytes: number): void | number | Promise<void> | Promise<number>;
  /** Called when a worker is done with the source, after the last read has ended; not when the worker is killed. */
  close?(): void;
}

/** The type of a source module's export `open`. Each link of each worker opens its own source, within four seconds. */
export type OpenCustomSource<Options = JsonValue> = (
  options: Options,
) => CustomSource | Promise<CustomSource>;

/** Shorter than the time that a worker has for taking over a link, so that a slow source does not get it killed. */
const OPEN_DEADLINE_MS = 4000;
const MAX_IDENTITY_CHARACTERS = 256;
/** Of the text of a source's error in messages and logs. */
const MAX_ERROR_CHARACTERS = 500;

/** Loads and opens the source that was attached. Takes over `fd` if it succeeds. Rejects with a SourceError. */
export async function openModuleSource(spec: ModuleSourceSpec, fd: number): Promise<Source> {
  const inner = await openCustomSource(spec.path, spec.options);
  const identity = inner.identity ?? null;
  if (inner.sizeBytes === spec.sizeBytes && identity === spec.identity)
    return new ModuleSource(inner, spec.path, fd);
  closeQuietly(inner);
  const [had, has] =
    inner.sizeBytes === spec.sizeBytes
      ? [`identity ${spec.identity}`, `${identity}`]
      : [`${spec.sizeBytes} bytes`, `${inner.sizeBytes}`];
  throw new SourceError(`cannot serve ${spec.path}: it had ${had} when it was attached, and has ${has} now`);
}

/**
 * Loads a module and opens its source, without a comparison with the attach. Rejects with a SourceError if the module
 * or the source is unusable, or if opening takes too long.
 */
export async function openCustomSource(path: string, options: JsonValue): Promise<CustomSource> {
  const opening = load(path).then((open) => open(options));
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new Error(`it did not open within ${OPEN_DEADLINE_MS / 1000} s`);
    timer = setTimeout(() => reject(error), OPEN_DEADLINE_MS);
  });
  try {
    return checked(await Promise.race([opening, late]));
  } catch (error) {
    // A source that opens too late is closed.
    void opening.then(closeQuietly, () => {});
    throw new SourceError(`cannot open source ${path}: ${explain(error)}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Node caches modules by URL: the version in it makes Node load an edited module anew. */
async function load(path: string): Promise<OpenCustomSource> {
  const { mtimeMs, ino, size } = statSync(path);
  const url = pathToFileURL(path);
  url.searchParams.set("version", `${ino}-${size}-${mtimeMs}`);
  const { open } = (await import(url.href)) as { open?: unknown };
  if (typeof open !== "function") throw new Error("the module exports no function 'open'");
  return open as OpenCustomSource;
}

function checked(value: unknown): CustomSource {
  if (typeof value !== "object" || value === null) throw new Error("'open' did not return a source");
  const { sizeBytes, read, identity, close: end } = value as Record<keyof CustomSource, unknown>;
  if (!Number.isSafeInteger(sizeBytes) || (sizeBytes as number) < 1)
    throw new Error(`its sizeBytes is ${String(sizeBytes)}: expected a positive integer`);
  if ((sizeBytes as number) > MAX_IMAGE_BYTES)
    throw new Error(`its sizeBytes is ${String(sizeBytes)}: expected at most ${MAX_IMAGE_BYTES}`);
  if (typeof read !== "function") throw new Error("it has no function 'read'");
  if (end !== undefined && typeof end !== "function") throw new Error("its 'close' is no function");
  if (identity !== undefined && (typeof identity !== "string" || identity.length > MAX_IDENTITY_CHARACTERS))
    throw new Error(`its identity is no string of at most ${MAX_IDENTITY_CHARACTERS} characters`);
  return value as CustomSource;
}

/** The message of an error; a hint for missing permissions. */
function explain(error: unknown): string {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  if (code === "EACCES" || code === "EPERM")
    return `permission denied: user ${process.geteuid?.()} of the workers may not read it or a file that it needs`;
  const words = typeof message === "string" ? message.split("\n", 1)[0] : String(error);
  return words?.slice(0, MAX_ERROR_CHARACTERS) || "it failed without a message";
}

function closeQuietly(source: CustomSource): void {
  try {
    source.close?.();
  } catch {
    // Nothing is read from it any more, so the error has no effect.
  }
}

export class ModuleSource implements Source {
  readonly sizeBytes: number;
  /** Also if `read` returns at once, so that all custom sources are served in one way. */
  readonly asynchronous = true;
  readonly #inner: CustomSource;
  readonly #path: string;
  readonly #fd: number;
  #reading = 0;
  #closed = false;

  /** Takes over the descriptor. `path` is only for messages. */
  constructor(inner: CustomSource, path: string, fd: number) {
    this.#inner = inner;
    this.#path = path;
    this.#fd = fd;
    this.sizeBytes = inner.sizeBytes;
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<void> {
    this.#reading += 1;
    try {
      const filled = await this.#inner.read(target, offsetBytes);
      if (filled !== undefined && filled !== target.length)
        throw new Error(`it filled ${String(filled)} of ${target.length} bytes`);
    } catch (error) {
      throw new SourceError(`cannot read ${this.#path} at ${offsetBytes}: ${explain(error)}`);
    } finally {
      this.#reading -= 1;
      this.#closeWhenIdle();
    }
  }

  verify(): void {}

  extent(): FileExtent | undefined {
    return undefined;
  }

  close(): void {
    this.#closed = true;
    close(this.#fd);
    this.#closeWhenIdle();
  }

  /** The link may have ended while reads go on. */
  #closeWhenIdle(): void {
    if (this.#closed && this.#reading === 0) closeQuietly(this.#inner);
  }
}
