// @ts-check
/**
 * The servers that the benchmark compares: how each is started on a unix socket, and what its processes have cost.
 *
 * All of them serve the same file read-only and stay up for the whole run; main.mjs stops them.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const OURS = fileURLToPath(new URL("../../dist/src/cli/main.js", import.meta.url));
const START_LIMIT_MS = 20_000;
const LOOK_AGAIN_MS = 20;

/**
 * @typedef {object} RunningServer
 * @property {string} name
 * @property {string} uri what a client is pointed at
 * @property {() => Promise<number>} cpuMs CPU time of all its processes so far, those that ended included
 * @property {() => Promise<void>} stop
 */

/**
 * @typedef {object} Server
 * @property {string} name in the table
 * @property {string} exportName
 * @property {(socket: string, image: string, directory: string) => [string, ...string[]]} command
 */

/**
 * @param {string} name
 * @param {string} program a build's dist/src/cli/main.js
 * @returns {Server}
 */
export const ourServer = (name, program) => ({
  name,
  command: (socket, image) => [process.execPath, program, "serve", "--socket", socket, image],
  exportName: "",
});

/** The first is ours, the second what we compare with. @type {readonly Server[]} */
export const SERVERS = [
  ourServer("erofs-nbd serve", OURS),
  {
    name: "nbdkit file",
    command: (socket, image) => ["nbdkit", "-f", "-r", "-U", socket, "file", image],
    exportName: "",
  },
  {
    name: "nbd-server",
    command: (socket, image, directory) => {
      const config = join(directory, "nbd-server.conf");
      // It wants a port as well; nobody connects to this one.
      const generic = `[generic]\nunixsock = ${socket}\nlistenaddr = 127.0.0.1\nport = 0\n`;
      writeFileSync(config, `${generic}[image]\nexportname = ${image}\nreadonly = true\n`);
      return ["nbd-server", "-n", "-C", config, "-p", join(directory, "nbd-server.pid")];
    },
    exportName: "image",
  },
  {
    name: "qemu-nbd",
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
  const [program, ...args] = server.command(socket, image, directory);
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.on("data", (chunk) => {
    errors += chunk;
  });
  const died = once(child, "exit").then(() => {
    throw new Error(`Cannot start ${server.name}: ${errors.trim() || "it ended"}`);
  });
  died.catch(() => {}); // stopping it is no failure
  await Promise.race([died, untilListening(socket)]);
  const pid = child.pid ?? 0;
  return {
    name: server.name,
    uri: `nbd+unix:///${server.exportName}?socket=${socket}`,
    cpuMs: () => settledCpuMs(pid),
    stop: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

/** @param {string} socket */
async function untilListening(socket) {
  const deadlineMs = Date.now() + START_LIMIT_MS;
  while (!(await takesConnections(socket))) {
    if (Date.now() > deadlineMs) throw new Error(`Cannot reach ${socket}: nobody listens`);
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
    if (Date.now() > deadlineMs) throw new Error(`Cannot count process ${pid}: its children do not end`);
    await delay(LOOK_AGAIN_MS);
  }
  // proc(5): utime, stime, cutime and cstime are fields 14 to 17; field 2 may contain blanks.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return (ticks * 1000) / TICKS_PER_SECOND;
}
