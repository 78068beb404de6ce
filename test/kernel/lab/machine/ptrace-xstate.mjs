// @ts-check
/**
 * Builds ptrace-xstate.c into the cache: a library that older User-Mode Linux kernels need on newer processors.
 *
 * kernels.mjs calls it. tcc is one small package without dependencies, so no compiler need be installed.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { command, openSuite } from "../image/apt.mjs";
import { cacheEntry } from "../image/cache.mjs";

const SOURCE = fileURLToPath(new URL("ptrace-xstate.c", import.meta.url));
const LIBRARY = "ptrace-xstate.so";
const TCC_SUITE = "bookworm";

/**
 * Builds the library when the cache does not have it for this source.
 * @returns {Promise<string>} absolute path
 */
export async function preparePtrace() {
  const digest = createHash("sha256").update(readFileSync(SOURCE)).digest("hex").slice(0, 12);
  const entry = await cacheEntry(`ptrace-xstate-${digest}`, async (draft) => {
    const unpacked = join(draft, "unpacked");
    mkdirSync(unpacked);
    const suite = await openSuite(TCC_SUITE, draft);
    await suite.download(["tcc"], unpacked);
    const support = `-B${join(unpacked, "usr/lib/x86_64-linux-gnu/tcc")}`;
    const output = ["-shared", "-nostdlib", "-o", join(draft, LIBRARY)];
    await command(
      "build the kernel's ptrace",
      join(unpacked, "usr/bin/tcc"),
      [support, ...output, SOURCE],
      draft,
    );
    rmSync(unpacked, { recursive: true });
    rmSync(join(draft, `apt-${TCC_SUITE}`), { recursive: true });
  });
  return join(entry, LIBRARY);
}
