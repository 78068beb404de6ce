// @ts-check
/**
 * `npm run demo`: makes an EROFS image from real files, boots a kernel with nbd if this machine's own has none, and
 * runs story.mjs on it: attach, mount, read, kill what serves the reads five times, read on.
 *
 * Ends with 0 only if every byte matched and every failover was counted. Needs Debian or Ubuntu's apt for what is
 * missing (erofs-utils, a User-Mode Linux kernel), or root and a kernel with nbd.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { boot, PROJECT_DIR } from "../../test/kernel/lab/boot.mjs";
import { hostObstacle } from "../../test/kernel/lab/host.mjs";
import { openSuite } from "../../test/kernel/lab/image/apt.mjs";
import { cacheEntry } from "../../test/kernel/lab/image/cache.mjs";
import { removeIfInterrupted } from "../../tools/litter.mjs";

const STORY = fileURLToPath(new URL("./story.mjs", import.meta.url));
const KERNEL = "6.12";
/** Real files of many sizes that are here already, because the project was installed. */
const PACKAGES = ["typescript", "@typescript", "zod", "fast-check", "vitest", "vite", "chai"];
const MAX_TREE_BYTES = 40 << 20;
/** Last resort: the story has a shorter limit, and says what went wrong. */
const LIMIT_MS = 20 * 60_000;

process.exit(await main());

async function main() {
  const place = join(PROJECT_DIR, ".cache");
  mkdirSync(place, { recursive: true });
  const directory = mkdtempSync(join(place, "demo-"));
  removeIfInterrupted(directory);
  try {
    say("making an EROFS image from the files of a few npm packages …");
    const [mkfs = "", ...words] = await findMkfs();
    const files = makeTree(join(directory, "tree"));
    const image = join(directory, "image.erofs");
    execFileSync(mkfs, [...words, image, join(directory, "tree")], { stdio: "ignore" });
    writeFileSync(join(directory, "manifest.json"), JSON.stringify(files));
    say(`${Object.keys(files).length} files, image of ${(statSync(image).size / 2 ** 20).toFixed(1)} MiB`);
    return await tellOnSomeKernel([process.execPath, STORY, image, join(directory, "manifest.json")]);
  } catch (error) {
    const { message, hint } = /** @type {Error & { hint?: string }} */ (error);
    process.stderr.write(`demo: ${message}\n${hint === undefined ? "" : `hint: ${hint}\n`}`);
    return 2;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** @param {string[]} command */
async function tellOnSomeKernel(command) {
  const obstacle = hostObstacle();
  if (obstacle === undefined) {
    say("this machine's own kernel has nbd and erofs: using it");
    const { status } = spawnSync(command[0] ?? "", command.slice(1), { stdio: "inherit" });
    return status ?? 2;
  }
  say(`${obstacle}; booting Linux ${KERNEL} as a process instead`);
  const result = await boot({
    kernel: KERNEL,
    command,
    env: { DEMO_COLOURS: process.stdout.isTTY ? "1" : "" },
    timeoutMs: LIMIT_MS,
    onProgress: say,
    onOutput: (stream, text) => process[stream].write(text),
  });
  return result.exitCode;
}

/**
 * Copies the packages' files until there is enough, and returns each file's SHA-256.
 * @param {string} tree
 */
function makeTree(tree) {
  /** @type {Record<string, string>} */
  const sums = {};
  let bytes = 0;
  for (const name of PACKAGES) {
    const from = join(PROJECT_DIR, "node_modules", name);
    if (bytes > MAX_TREE_BYTES || !isDirectory(from)) continue;
    cpSync(from, join(tree, name), {
      recursive: true,
      dereference: true,
      filter: (path) => sizeOf(path) < MAX_TREE_BYTES,
    });
    for (const entry of readdirSync(join(tree, name), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const content = readFileSync(path);
      bytes += content.length;
      sums[path.slice(tree.length + 1)] = createHash("sha256").update(content).digest("hex");
    }
  }
  return sums;
}

/** @param {string} path */
function isDirectory(path) {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** @param {string} path */
function sizeOf(path) {
  return statSync(path).size;
}

/**
 * The words that start mkfs.erofs: the machine's own, or one from Debian's archive in the lab's cache. That one comes
 * with its libraries and its loader, so that it needs no root and is not installed.
 */
async function findMkfs() {
  if (spawnSync("mkfs.erofs", ["--help"], { stdio: "ignore" }).error === undefined) return ["mkfs.erofs"];
  const entry = await cacheEntry("erofs-utils", async (draft) => {
    say("mkfs.erofs is missing here: taking erofs-utils from Debian's archive, without installing it …");
    const suite = await openSuite("trixie", draft);
    await suite.downloadWithDependencies(["erofs-utils"], draft);
    for (const name of readdirSync(draft).filter((each) => each !== "usr"))
      rmSync(join(draft, name), { recursive: true });
  });
  const libraries = join(entry, "usr/lib/x86_64-linux-gnu");
  const loader = join(libraries, "ld-linux-x86-64.so.2");
  return [loader, "--library-path", libraries, join(entry, "usr/bin/mkfs.erofs")];
}

/** @param {string} text */
function say(text) {
  process.stdout.write(`· ${text}\n`);
}
