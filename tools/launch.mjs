// @ts-check
/**
 * Starts one of the project's own programs: node tools/launch.mjs [--build] SCRIPT [ARGUMENT…].
 *
 * All scripts of package.json that start processes go through it. It installs the project's packages first when that is
 * needed, builds with --build, and gives the program a temporary directory. However the run ends, by itself, by SIGINT,
 * SIGTERM, SIGHUP, or by the death of npm or of this process, keeper.mjs ends all that it started.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, realpathSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LAUNCH_VARIABLE } from "./leftovers.mjs";
import { installPackages, npmCommand, reportToolError, ToolError } from "./packages.mjs";

const KEEPER = fileURLToPath(new URL("./keeper.mjs", import.meta.url));
const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SIGNALS = /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"]);
const ANCESTOR_POLL_MS = 250;

/** @typedef {{ code: number | null, signal: NodeJS.Signals | null }} End how a program ended, as its exit event says */

/** @type {NodeJS.Signals | undefined} */
let interruptedBy;
/** @type {Promise<End>} */
const interruption = new Promise((done) => {
  const interrupt = (/** @type {NodeJS.Signals} */ signal) => {
    interruptedBy ??= signal;
    done({ code: null, signal });
  };
  for (const signal of SIGNALS) process.on(signal, interrupt);
  watchAncestors(() => interrupt("SIGTERM"));
});
/** A short name, because unix sockets live below it. Handlers and keeper come first: a signal may come at any time. */
const run = join(realpathSync(tmpdir()), `en-${randomBytes(4).toString("hex")}`);
const keeper = startKeeper(run);
const work = launch(process.argv.slice(2)).catch((error) => ({ code: reportToolError(error), signal: null }));
const end = await Promise.race([work, interruption]);
await keeper.close(end.code !== null && interruptedBy === undefined);
if (interruptedBy === undefined) process.exit(end.code ?? 1);
// The parent is to see which signal it was.
for (const signal of SIGNALS) process.removeAllListeners(signal);
process.kill(process.pid, interruptedBy);

/**
 * @param {string[]} argv
 * @returns {Promise<End>}
 */
async function launch(argv) {
  const isBuilt = argv[0] === "--build";
  const [script, ...args] = isBuilt ? argv.slice(1) : argv;
  if (script === undefined) throw new ToolError("usage: node tools/launch.mjs [--build] SCRIPT [ARGUMENT…]");
  mkdirSync(run);
  chmodSync(run, 0o1777); // open to all users as /tmp is: some tests run as nobody
  process.env[LAUNCH_VARIABLE] = run;
  process.env["TMPDIR"] = run;
  await installPackages();
  if (isBuilt) {
    const [npm = "npm", ...words] = npmCommand();
    const build = await program(npm, [...words, "run", "--silent", "build"], ROOT);
    if (build.code !== 0) return build;
  }
  const end = await program(process.execPath, [join(ROOT, script), ...args]);
  if (end.signal !== null && interruptedBy === undefined)
    process.stderr.write(`erofs-nbd: ${script} was killed by ${end.signal}\n`);
  return end;
}

/**
 * @param {string} file
 * @param {readonly string[]} args
 * @param {string} [cwd]
 * @returns {Promise<End>}
 */
function program(file, args, cwd) {
  const child = spawn(file, args, { stdio: "inherit", ...(cwd === undefined ? {} : { cwd }) });
  return new Promise((done, failed) => {
    child.once("error", failed);
    child.once("exit", (code, signal) => done({ code, signal }));
  });
}

/** @param {string} directory */
function startKeeper(directory) {
  const child = spawn(process.execPath, [KEEPER], {
    stdio: ["pipe", "ignore", "inherit"],
    detached: true,
    cwd: "/",
  });
  const ended = new Promise((done) => child.once("exit", done));
  child.stdin.write(`${directory}\n`);
  return {
    /** Has everything ended and waits for it. @param {boolean} isDone the program came to its own end */
    close: async (isDone) => {
      child.stdin.end(isDone ? "done\n" : "");
      await ended;
    },
  };
}

/**
 * Calls back when npm, or a shell between npm and us, is gone: SIGKILL ends npm alone, and SIGHUP may. Without npm a
 * parent may well end before us.
 * @param {() => void} onLoss
 */
function watchAncestors(onLoss) {
  if (process.env["npm_lifecycle_event"] === undefined) return;
  const chain = ancestors();
  if (!/^(npm|node|pnpm|yarn)/.test(nameOf(chain.at(-1) ?? 0))) return onLoss(); // gone before we came
  const timer = setInterval(() => {
    const now = ancestors();
    if (chain.every((pid, at) => now[at] === pid)) return;
    clearInterval(timer);
    onLoss();
  }, ANCESTOR_POLL_MS);
  timer.unref();
}

/** Our ancestors up to npm, at most three. */
function ancestors() {
  const found = [];
  for (let pid = process.ppid; pid > 0 && found.length < 3; pid = parentOf(pid)) {
    found.push(pid);
    if (!/^(sh|dash|bash|ash|busybox)$/.test(nameOf(pid))) break;
  }
  return found;
}

/** @param {number} pid */
function parentOf(pid) {
  const stat = readStat(pid);
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1] ?? 0);
}

/** @param {number} pid */
function nameOf(pid) {
  const stat = readStat(pid);
  return stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
}

/** @param {number} pid */
function readStat(pid) {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return "";
  }
}
