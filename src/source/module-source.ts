/**
 * A source that somebody else wrote: a module which every worker can load, and which opens a virtual file.
 *
 * Runs in workers alone, with a worker's rights and in its process; the manager never loads one. Whatever it throws is
 * an I/O error for the read it was asked for. A worker that was killed loses nothing: the next one loads the module
 * again. That is why a source is named by a module and options, and is not an object that one process has.
 */
import { statSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { close } from "../sys/libc.ts";
import { type FileExtent, type Source, SourceError } from "./source.ts";
import type { JsonValue, ModuleSourceSpec } from "./source-spec.ts";

/**
 * What a module's `open` returns: a virtual file of fixed size and content.
 *
 * The bytes at an offset never change, whichever worker asks and however often: the page cache above relies on it, and a
 * read that was on its way when a worker died is asked again of another.
 */
export interface CustomSource {
  /** Whole bytes, at least 1. */
  readonly sizeBytes: number;
  /**
   * Says which data this is, such as a checksum or an ETag: workers that find another one than the attach did refuse
   * to serve. At most 256 characters.
   */
  readonly identity?: string;
  /**
   * Fills all of `target` with the bytes from `offsetBytes`, or throws: what it throws is the reader's EIO and a line in
   * the log. The range lies inside the source. May return a promise; reads run side by side then, in any order. May
   * return (or promise) the number of bytes filled, as `fs.readSync` does: fewer than asked for is an error.
   * `target` is a part of a larger buffer: fill it, not `target.buffer`, and do not keep it.
   */
  read(target: Uint8Array, offsetBytes: number): void | number | Promise<void> | Promise<number>;
  /** Called when a worker lets go of the source, after the last read has ended; not when the worker is killed. */
  close?(): void;
}

/** What a source module exports, as `open`. Each link of each worker opens its own; it has four seconds. */
export type OpenCustomSource<Options = JsonValue> = (
  options: Options,
) => CustomSource | Promise<CustomSource>;

/** Shorter than what a worker gets for taking a link over: a slow source must not cost the worker its life. */
const OPEN_DEADLINE_MS = 4000;
const MAX_IDENTITY_CHARACTERS = 256;
/** Of what a source says when it fails: it goes into messages and logs. */
const MAX_WORDS_CHARACTERS = 500;

/** Loads and opens the source that was attached. Takes `fd` over when it succeeds. Rejects with a SourceError. */
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
 * Loads a module and has it open its source, whatever that is now. Rejects with a SourceError that says what is wrong
 * with the module or the source, also when the opening takes too long.
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
    // One that opens after all is not wanted any more.
    void opening.then(closeQuietly, () => {});
    throw new SourceError(`cannot open source ${path}: ${explain(error)}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Modules are kept by Node under their address: one that was edited since is loaded anew. */
async function load(path: string): Promise<OpenCustomSource> {
  const { mtimeMs, ino, size } = statSync(path);
  const url = pathToFileURL(path);
  url.searchParams.set("version", `${ino}-${size}-${mtimeMs}`);
  const { open } = (await import(url.href)) as { open?: unknown };
  if (typeof open !== "function") throw new Error("the module exports no function «open»");
  return open as OpenCustomSource;
}

function checked(value: unknown): CustomSource {
  if (typeof value !== "object" || value === null) throw new Error("«open» did not return a source");
  const { sizeBytes, read, identity, close: end } = value as Record<keyof CustomSource, unknown>;
  if (!Number.isSafeInteger(sizeBytes) || (sizeBytes as number) < 1)
    throw new Error(`its sizeBytes is ${String(sizeBytes)}, not a number of whole bytes above 0`);
  if (typeof read !== "function") throw new Error("it has no function «read»");
  if (end !== undefined && typeof end !== "function") throw new Error("its «close» is no function");
  if (identity !== undefined && (typeof identity !== "string" || identity.length > MAX_IDENTITY_CHARACTERS))
    throw new Error(`its identity is no text of at most ${MAX_IDENTITY_CHARACTERS} characters`);
  return value as CustomSource;
}

/** The errno where there is one, in words that help. */
function explain(error: unknown): string {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  if (code === "EACCES" || code === "EPERM")
    return `permission denied: user ${process.geteuid?.()}, which workers run as, may not read it or something that it needs`;
  const words = typeof message === "string" ? message.split("\n", 1)[0] : String(error);
  return words?.slice(0, MAX_WORDS_CHARACTERS) || "it failed without a word";
}

function closeQuietly(source: CustomSource): void {
  try {
    source.close?.();
  } catch {
    // Nothing is read from it any more; that it does not close either changes nothing.
  }
}

export class ModuleSource implements Source {
  readonly sizeBytes: number;
  /** Also where `read` returns at once: a source of either kind, or of both, is served in one way. */
  readonly asynchronous = true;
  readonly #inner: CustomSource;
  readonly #path: string;
  readonly #fd: number;
  #reading = 0;
  #closed = false;

  /** Takes the descriptor over. `path` is only for messages. */
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

  /** The reads of a link that has ended are still the source's. */
  #closeWhenIdle(): void {
    if (this.#closed && this.#reading === 0) closeQuietly(this.#inner);
  }
}
