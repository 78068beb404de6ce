// @ts-check
/**
 * Other versions of Node.js, and one for another processor, in the lab's cache: npm has Node.js itself as packages, and
 * Debian has QEMU's user mode emulation and that processor's C library. Nothing is installed.
 *
 * node-suite.ts calls `prepareNode` and `prepareArm64`. To get newer versions delete the entries `node-*` of the cache.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { npmCommand } from "../../tools/packages.mjs";
import { PROJECT_DIR } from "../kernel/lab/boot.mjs";
import { LabError } from "../kernel/lab/errors.mjs";
import { openSuite } from "../kernel/lab/image/apt.mjs";
import { cacheEntry } from "../kernel/lab/image/cache.mjs";

const run = promisify(execFile);
const DOWNLOAD_LIMIT_MS = 300_000;
/** Its qemu-user is one static program, and its libraries are new enough for every Node.js. */
const SUITE = "trixie";
const LIBRARIES = ["libc6", "libstdc++6", "libgcc-s1"];

/**
 * A Node.js program.
 * @param {string} version exact, or a major version of which the newest is taken
 * @param {string} processor in Node's words
 * @returns {Promise<string>} its path
 */
export async function prepareNode(version, processor) {
  const entry = await cacheEntry(`node-${version}-${processor}`, async (draft) => {
    await npm(["pack", `node-linux-${processor}@${version}`, "--pack-destination", draft], draft);
    await command("tar", ["-xzf", ...(await tarballIn(draft)), "package/bin/node"], draft);
    renameSync(join(draft, "package/bin"), join(draft, "bin"));
  });
  return join(entry, "bin/node");
}

/**
 * What runs programs of 64-bit ARM: the words to put before one.
 * @returns {Promise<string[]>}
 */
export async function prepareArm64() {
  const entry = await cacheEntry("arm64", async (draft) => {
    const [root, unpacked] = [join(draft, "root"), join(draft, "unpacked")];
    for (const directory of [root, unpacked]) mkdirSync(directory);
    await (await openSuite(SUITE, draft)).download(["qemu-user"], unpacked);
    await (await openSuite(SUITE, draft, "arm64")).download(LIBRARIES, root);
    renameSync(join(unpacked, "usr/bin/qemu-aarch64"), join(draft, "qemu-aarch64"));
    symlinkSync("usr/lib", join(root, "lib"));
    for (const name of [unpacked, join(draft, `apt-${SUITE}`), join(draft, `apt-${SUITE}-arm64`)])
      rmSync(name, { recursive: true });
  });
  return [join(entry, "qemu-aarch64"), "-L", join(entry, "root")];
}

/**
 * The project's dependencies as they are on another processor.
 * @param {string} processor in Node's words
 * @returns {Promise<string>} a node_modules directory
 */
export async function prepareDependencies(processor) {
  const lock = readFileSync(join(PROJECT_DIR, "package-lock.json"));
  const id = createHash("sha256").update(lock).digest("hex").slice(0, 16);
  const entry = await cacheEntry(`packages-${processor}-${id}`, async (draft) => {
    for (const name of ["package.json", "package-lock.json", ".npmrc"])
      copyFileSync(join(PROJECT_DIR, name), join(draft, name));
    await npm(["ci", "--omit=dev", "--ignore-scripts", "--os=linux", `--cpu=${processor}`], draft);
  });
  return join(entry, "node_modules");
}

/** @param {string} directory */
async function tarballIn(directory) {
  const { stdout } = await run("sh", ["-c", "ls *.tgz"], { cwd: directory });
  return stdout.trim().split("\n");
}

/**
 * @param {readonly string[]} args
 * @param {string} cwd
 */
async function npm(args, cwd) {
  const [file = "npm", ...words] = npmCommand();
  await command(file, [...words, ...args], cwd);
}

/**
 * @param {string} file
 * @param {readonly string[]} args
 * @param {string} cwd
 */
async function command(file, args, cwd) {
  try {
    await run(file, args, { cwd, timeout: DOWNLOAD_LIMIT_MS, maxBuffer: 1 << 24 });
  } catch (error) {
    const { stderr, message } = /** @type {Error & { stderr?: string }} */ (error);
    const reason = (stderr ?? "").split("\n").find((line) => /error (?!code)/.test(line)) ?? message;
    throw new LabError("ERR_LAB_PREPARE", `cannot get ${args.join(" ")}: ${reason}`, { cause: error });
  }
}
