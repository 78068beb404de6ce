// @ts-check
/**
 * Keeps node_modules in step with package-lock.json, so that a fresh clone needs no command before the first.
 *
 * launch.mjs calls `installPackages` before anything else runs; package.json's scripts that are not launched run this
 * file. It imports nothing but Node and this folder, because nothing else is there on a fresh clone.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "./lock.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** What a user can do something about: `message` is one line, `hint` another. */
export class ToolError extends Error {
  /**
   * @param {string} message without a final period
   * @param {string} [hint]
   */
  constructor(message, hint) {
    super(message);
    this.name = "ToolError";
    this.hint = hint;
  }
}

/**
 * Runs `npm ci` when the installed packages are missing or are not those of package-lock.json. Of several runs at once
 * one installs and the others wait for it.
 * @param {{ root?: string, say?: (line: string) => void }} [options] `root`: the clone
 * @throws {ToolError} this Node is too old, or npm failed
 */
export async function installPackages({ root = ROOT, say = sayOnStderr } = {}) {
  checkNode(root);
  const isDone = () => staleness(root) === undefined;
  if (isDone()) return;
  mkdirSync(join(root, ".cache"), { recursive: true });
  await withLock(
    join(root, ".cache", "install.lock"),
    isDone,
    async () => {
      say(`${staleness(root)}: running npm ci`);
      await npmCi(root);
      const still = staleness(root);
      if (still !== undefined)
        throw new ToolError(`cannot install the project's packages: after npm ci, ${still}`);
    },
    () => say("waiting for another run that installs the project's packages"),
  );
}

/**
 * Why node_modules is not what package-lock.json says, or undefined. npm writes node_modules/.package-lock.json last,
 * so an interrupted installation has none.
 * @param {string} root
 */
export function staleness(root) {
  const installed = packagesOf(join(root, "node_modules", ".package-lock.json"));
  if (installed === undefined) return "node_modules is missing or incomplete";
  const wanted = packagesOf(join(root, "package-lock.json"));
  if (wanted === undefined) throw new ToolError(`cannot read ${join(root, "package-lock.json")}`);
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === "" || !isForHere(entry)) continue;
    const found = installed[path];
    if (found?.version !== entry.version || found?.integrity !== entry.integrity)
      return `node_modules does not match package-lock.json (${path})`;
    if (!existsSync(join(root, path))) return `node_modules is incomplete (${path} is missing)`;
  }
  return undefined;
}

/**
 * @typedef {{
 *   version?: string, integrity?: string, optional?: boolean, os?: string[], cpu?: string[], libc?: string[]
 * }} Entry
 */

/**
 * @param {string} path of a lock file
 * @returns {Record<string, Entry> | undefined} undefined when there is none, or none that can be read
 */
function packagesOf(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8")).packages;
  } catch {
    return undefined;
  }
}

/**
 * Optional packages are for one platform each, or may be left out. Those that name a C library are left to npm.
 * @param {Entry} entry
 */
function isForHere({ optional, os, cpu, libc }) {
  if (optional !== true) return true;
  if (os === undefined || cpu === undefined || libc !== undefined) return false;
  return os.includes(process.platform) && cpu.includes(process.arch);
}

/** @param {string} root */
function checkNode(root) {
  const { engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const [major = 0, minor = 0] = numbers(engines.node);
  const [ownMajor = 0, ownMinor = 0] = numbers(process.versions.node);
  if (ownMajor > major || (ownMajor === major && ownMinor >= minor)) return;
  throw new ToolError(
    `this is Node.js ${process.versions.node}: ${major}.${minor} or newer is needed`,
    "the npm package named node has every version: npx node@22 …",
  );
}

/** @param {string} version */
function numbers(version) {
  return [...version.matchAll(/\d+/g)].map(Number);
}

/** @param {string} root */
async function npmCi(root) {
  const [file = "npm", ...args] = npmCommand();
  const child = spawn(file, [...args, "ci", "--include=dev", "--no-progress"], {
    cwd: root,
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, NO_COLOR: "1", npm_config_loglevel: "error" },
  });
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (chunk) => {
    text += chunk;
  });
  const end = await new Promise((done) => {
    child.once("error", (error) => done(error.message));
    child.once("close", (code, signal) => done(code === 0 ? undefined : `it ended with ${code ?? signal}`));
  });
  if (end === undefined) return;
  throw new ToolError(
    `cannot install the project's packages: npm ci: ${npmReason(text) ?? end}`,
    `run npm ci in ${root} to see all that npm says`,
  );
}

/** npm as the one that runs us, or the one in PATH. */
export function npmCommand() {
  const own = process.env["npm_execpath"];
  const isNpm = own !== undefined && /npm-cli\.[cm]?js$/.test(own) && existsSync(own);
  return isNpm ? [process.execPath, own] : ["npm"];
}

/**
 * The line of npm's errors that says why.
 * @param {string} text
 */
function npmReason(text) {
  const lines = [...text.matchAll(/^npm error (.+)$/gm)].map((match) => match[1]?.trim() ?? "");
  const noise = /^(code|syscall|errno|path|dest|network (This|In most|If you)|A complete log|[{}[\]])/;
  return lines.find((line) => !noise.test(line));
}

/** @param {string} line */
function sayOnStderr(line) {
  process.stderr.write(`${line}\n`);
}

/**
 * Prints an error the way all tools do and returns the exit status 1. Rethrows an error that is no ToolError: a bug.
 * @param {unknown} error
 */
export function reportToolError(error) {
  if (!(error instanceof ToolError)) throw error;
  process.stderr.write(`erofs-nbd: ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`hint: ${error.hint}\n`);
  return 1;
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await installPackages();
  } catch (error) {
    process.exitCode = reportToolError(error);
  }
}
