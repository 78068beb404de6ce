// @ts-check
/**
 * A process that runs out of descriptors while a peer connects: node acceptor-starved.mjs SOCKET, after a build.
 *
 * A process of its own, because it takes every descriptor there is. Prints one JSON line.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { close } from "../../../../dist/src/sys/libc/files.js";
import { Acceptor } from "../../../../dist/src/sys/sockets/acceptor.js";
import { listenUnix } from "../../../../dist/src/sys/sockets/listen.js";

const path = process.argv[2] ?? "";
/** @type {string[]} */
const complaints = [];
let served = 0;
const acceptor = new Acceptor(listenUnix(path), {
  connection: (fd) => {
    served += 1;
    close(fd);
  },
  trouble: (message) => complaints.push(message),
});
// Connects from outside, waits to be cut off, and once more when told to.
const program = `
  const { createConnection } = require("node:net");
  const connect = () => {
    const socket = createConnection(process.argv[1]).resume();
    socket.on("close", () => process.stdout.write("closed\\n"));
  };
  process.stdin.on("data", connect);`;
const client = spawn(process.execPath, ["-e", program, path], { stdio: ["pipe", "pipe", "inherit"] });
let closed = 0;
client.stdout.on("data", (chunk) => {
  closed += `${chunk}`.split("closed").length - 1;
});

/** @type {number[]} */
const taken = [];
try {
  for (;;) taken.push(openSync("/dev/null", "r"));
} catch {
  // That was the last one.
}
await connectAndWait(1);
for (const fd of taken) closeSync(fd);
await connectAndWait(2);
acceptor.close();
client.kill();
process.stdout.write(
  `${JSON.stringify({ turnedAway: complaints.length, complaint: /E[A-Z]+/.exec(complaints[0] ?? "")?.[0], served })}\n`,
);

/** @param {number} count */
async function connectAndWait(count) {
  client.stdin.write("go\n");
  while (closed < count) await sleep(10);
}
