/**
 * EROFS images for tests, made by the real mkfs.erofs: from a directory, or with contents that a seed decides.
 *
 * Installs erofs-utils with apt-get when it is missing and we are root; otherwise it says what to install. Everything
 * goes into the directory the test names, and the test removes it.
 */

import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** How mkfs.erofs is called. */
export interface ImageOptions {
  /** For example ["-zlz4hc", "-C65536"]. */
  readonly arguments?: readonly string[];
  /** Default: a fixed one, so that the same directory gives the same image. */
  readonly uuid?: string;
}

/** An image on disk. */
export interface ErofsImage {
  readonly path: string;
  readonly sizeBytes: number;
}

/** Makes sure that mkfs.erofs can be run. */
export function ensureMkfs(): void {
  if (hasMkfs()) return;
  if (process.getuid?.() !== 0)
    throw new Error("cannot make EROFS images: mkfs.erofs is missing (install erofs-utils)");
  execFileSync("apt-get", ["install", "-y", "--no-install-recommends", "erofs-utils"], {
    stdio: "ignore",
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  });
  if (!hasMkfs())
    throw new Error("cannot make EROFS images: erofs-utils was installed and mkfs.erofs is still missing");
}

/** Makes `imagePath` out of `directory`; an existing image is replaced. */
export async function makeImage(
  imagePath: string,
  directory: string,
  options: ImageOptions = {},
): Promise<ErofsImage> {
  ensureMkfs();
  mkdirSync(dirname(imagePath), { recursive: true });
  const uuid = options.uuid ?? "11111111-2222-4333-8444-555555555555";
  await run("mkfs.erofs", [
    "-T",
    "1700000000",
    "-U",
    uuid,
    ...(options.arguments ?? []),
    imagePath,
    directory,
  ]);
  return { path: imagePath, sizeBytes: statSync(imagePath).size };
}

/**
 * Fills `directory` with files whose contents depend on the seed alone, some of them compressible; returns their paths,
 * relative to it, with their sizes.
 */
export function fillDirectory(
  directory: string,
  files: number,
  totalBytes: number,
  seed = 1,
): Map<string, number> {
  const made = new Map<string, number>();
  const sizeBytes = Math.floor(totalBytes / files);
  let state = seed >>> 0 || 1;
  for (let index = 0; index < files; index++) {
    const path = join(`dir-${index % 7}`, `file-${index}.bin`);
    const words = new Uint32Array(Math.ceil(sizeBytes / 4));
    for (let at = 0; at < words.length; at++) {
      // xorshift32; every third file repeats each word, so that it compresses.
      if (index % 3 !== 0 || at % 16 === 0) {
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
      }
      words[at] = state;
    }
    mkdirSync(join(directory, dirname(path)), { recursive: true });
    writeFileSync(join(directory, path), new Uint8Array(words.buffer, 0, sizeBytes));
    made.set(path, sizeBytes);
  }
  return made;
}

function hasMkfs(): boolean {
  try {
    // mkfs.erofs 1.5 knows no --version; --help is known to all.
    execFileSync("mkfs.erofs", ["--help"], { stdio: "ignore" });
    return true;
  } catch (error) {
    return !(error instanceof Error && "code" in error && error.code === "ENOENT");
  }
}
