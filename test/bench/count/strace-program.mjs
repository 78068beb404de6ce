// @ts-check
/** Where strace is: the machine's own, or Debian's package, unpacked in the lab's cache. Neither needs root. */
import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import { openSuite } from "../../kernel/lab/image/apt.mjs";
import { cacheEntry } from "../../kernel/lab/image/cache.mjs";

/** Old enough for every newer libc. */
const SUITE = "bookworm";
/** With what it needs beside libc. */
const PACKAGES = ["strace", "libunwind8", "liblzma5"];
const LIBRARIES = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/** @returns {Promise<{ STRACE: string, STRACE_LIBRARIES: string }>} environment for guest/strace.mjs */
export async function straceEnvironment() {
  const own = (process.env["PATH"] ?? "")
    .split(":")
    .map((directory) => join(directory, "strace"))
    .find(isExecutable);
  if (own !== undefined) return { STRACE: own, STRACE_LIBRARIES: "" };
  const entry = await cacheEntry("strace", async (draft) => {
    const suite = await openSuite(SUITE, draft);
    await suite.download(PACKAGES, draft);
  });
  const libraries = LIBRARIES.map((directory) => join(entry, directory)).join(":");
  return { STRACE: join(entry, "usr/bin/strace"), STRACE_LIBRARIES: libraries };
}

/** @param {string} path */
function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
