// @ts-check
/**
 * The servers that the benchmark compares: how each is started on a unix socket, and what its processes have cost.
 *
 * All of them serve the same file read-only and stay up for the whole run; main.mjs stops them.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const OURS = fileURLToPath(new URL("../../dist/src/cli/main.cjs", import.meta.url));
const JOURNALED = fileURLToPath(new URL("./journaled-server.mjs", import.meta.url));
const PID_FILE = "nbd-server.pid";
const START_LIMIT_MS = 20_000;
const LOOK_AGAIN_MS = 20;

/**
 * @typedef {object} RunningServer
 * @property {string} name
 * @property {number} pid of its first process
 * @property {string} socket its path
 * @property {string} uri what a client is pointed at
 * @property {() => Promise<number>} cpuMs CPU time of all its processes so far, those that ended included
 * @property {() => Promise<void>} stop
 */

/**
 * @typedef {object} Server
 * @property {string} name in the table
 * @property {string} exportName
 * @property {string} [debianPackage] what to install where it is missing
 * @property {(socket: string, image: string, directory: string, port: number) => [string, ...string[]]} command
 * @property {boolean} [leaves] whether it goes into the background and writes its number into PID_FILE
 */

/**
 * @param {string} name
 * @param {string} program a build's dist/src/cli/main.cjs
 * @returns {Server}
 */
export const ourServer = (name, program) => ({
  name,
  command: (socket, image) => [process.execPath, program, "serve", "--socket", socket, image],
  exportName: "",
});

/** The first is erofs-nbd, the second the server it is compared with. @type {readonly Server[]} */
export const SERVERS = [
  ourServer("erofs-nbd serve", OURS),
  {
    name: "erofs-nbd link",
    command: (socket, image) => [process.execPath, JOURNALED, socket, image],
    exportName: "",
  },
  {
    name: "nbdkit file",
    debianPackage: "nbdkit",
    command: (socket, image) => ["nbdkit", "-f", "-r", "-U", socket, "file", image],
    exportName: "",
  },
  {
    name: "nbd-server",
    debianPackage: "nbd-server",
    // In the foreground it serves one client only.
    leaves: true,
    command: (socket, image, directory, port) => {
      const config = join(directory, "nbd-server.conf");
      // It requires a port as well, which stays unused.
      const generic = `[generic]\nunixsock = ${socket}\nlistenaddr = 127.0.0.1\nport = ${port}\n`;
      writeFileSync(config, `${generic}[image]\nexportname = ${image}\nreadonly = true\n`);
      return ["nbd-server", "-C", config, "-p", join(directory, PID_FILE)];
    },
    exportName: "image",
  },
  {
    name: "qemu-nbd",
    debianPackage: "qemu-utils",
    command: (socket, image) => ["qemu-nbd", "-r", "-t", "-e", "4", "-f", "raw", "-k", socket, image],
    exportName: "",
  },
];

/**
 * Starts one and waits until it takes connections.
 * @param {Server} server
 * @param {string} image
 * @param {string} directory for sockets and configuration
 * @returns {Promise<RunningServer>}
 */
export async function start(server, image, directory) {
  const socket = join(directory, `${server.name.replace(/\W+/g, "-")}.sock`);
  const [program, ...args] = server.command(socket, image, directory, await freePort());
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.on("data", (chunk) => {
    errors += chunk;
  });
  const ended = once(child, "exit").then(
    ([code]) => {
      if (server.leaves !== true || code !== 0)
        throw new Error(`cannot start ${server.name}: ${errors.trim() || "it ended"}`);
    },
    (error) => {
      const hint = server.debianPackage === undefined ? "" : ` (apt-get install ${server.debianPackage})`;
      throw new Error(`cannot start ${server.name}: ${error.message}${hint}`);
    },
  );
  const listening = untilListening(socket);
  if (server.leaves === true) await ended;
  ended.catch(() => {}); // being stopped is no failure
  await Promise.race([listening, ended.then(() => listening)]);
  const pid = server.leaves === true ? Number(readFileSync(join(directory, PID_FILE), "utf8")) : child.pid;
  if (pid === undefined) throw new Error(`cannot start ${server.name}: it has no process`);
  return {
    name: server.name,
    pid,
    socket,
    uri: `nbd+unix:///${server.exportName}?socket=${socket}`,
    cpuMs: () => settledCpuMs(pid),
    stop: () => stop(pid),
  };
}

/** @param {number} pid */
async function stop(pid) {
  process.kill(pid, "SIGTERM");
  const deadlineMs = Date.now() + START_LIMIT_MS;
  while (existsSync(`/proc/${pid}`) && Date.now() < deadlineMs) await delay(LOOK_AGAIN_MS);
}

/** @returns {Promise<number>} */
async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  if (address === null || typeof address === "string") throw new Error("cannot find a free port");
  return address.port;
}

/** @param {string} socket */
async function untilListening(socket) {
  const deadlineMs = Date.now() + START_LIMIT_MS;
  while (!(await takesConnections(socket))) {
    if (Date.now() > deadlineMs) throw new Error(`cannot reach ${socket}: no server listens`);
    await delay(LOOK_AGAIN_MS);
  }
}

/** @param {string} socket */
function takesConnections(socket) {
  return new Promise((resolve) => {
    const probe = connect(socket);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}

const TICKS_PER_SECOND = Number(spawnSync("getconf", ["CLK_TCK"], { encoding: "utf8" }).stdout) || 100;

/**
 * CPU time of a process with its ended threads and reaped children, once it has none running: a server that forks
 * per client counts only then.
 * @param {number} pid
 */
async function settledCpuMs(pid) {
  const deadlineMs = Date.now() + START_LIMIT_MS;
  while (readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8") !== "") {
    if (Date.now() > deadlineMs) throw new Error(`cannot count process ${pid}: its children do not end`);
    await delay(LOOK_AGAIN_MS);
  }
  // proc(5): utime, stime, cutime and cstime are fields 14 to 17; field 2 may contain blanks.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return (ticks * 1000) / TICKS_PER_SECOND;
}
