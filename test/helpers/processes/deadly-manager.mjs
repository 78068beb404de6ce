// @ts-check
/**
 * Loaded into a manager with NODE_OPTIONS=--import: a manager that is killed at the first step where none was killed
 * yet.
 *
 * A step is an instant between two things that outlive a manager: a record written, a link given to a worker or taken
 * from it, a dead worker's journal settled, a command given to the kernel (before it, and after it has been carried out
 * but not answered). The file DEADLY_STEPS holds the round's number and the steps that it survives; without the
 * file nothing happens. The manager that dies removes it and leaves the step's name in its place, with `.died`
 * appended: its successor survives.
 *
 * By name and not by number, because what goes on at the same time does so in another order each time.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, program = "", command] = process.argv;
const file = process.env["DEADLY_STEPS"] ?? "";
let countedRound = 0;
/** @type {Map<string, number>} How often each was reached in that round. */
const reached = new Map();

/** @param {string} name */
function step(name) {
  if (!existsSync(file)) return;
  const { round, survived } = JSON.parse(readFileSync(file, "utf8"));
  if (round !== countedRound) reached.clear();
  countedRound = round;
  const times = (reached.get(name) ?? 0) + 1;
  reached.set(name, times);
  const step = times === 1 ? name : `${name}, time ${times}`;
  if (survived.includes(step)) return;
  writeFileSync(file, step);
  renameSync(file, `${file}.died`);
  process.kill(process.pid, "SIGKILL");
}

/**
 * Makes a method's beginning and end steps.
 * @param {any} prototype @param {string} method @param {string} name
 */
function around(prototype, method, name) {
  const original = prototype[method];
  if (typeof original !== "function") throw new Error(`${name} has no method ${method}`);
  prototype[method] = async function (/** @type {unknown[]} */ ...args) {
    step(`before ${name}`);
    const result = await original.apply(this, args);
    step(`after ${name}`);
    return result;
  };
}

// Its guardian would delay each restart further, as in a crash loop.
delete process.env["EROFS_NBD_REVIVALS"];

if (program.endsWith("/cli/main.cjs") && command === "manager") {
  const from = (/** @type {string} */ path) => import(new URL(path, pathToFileURL(program)).href);
  const { RecordStore } = await from("../manager/records/record-store.js");
  const { WorkerLinks } = await from("../pool/worker-links.js");
  const { HeldLink } = await from("../pool/links/held-link.js");
  const { NbdNetlink } = await from("../../netlink/index.js");
  around(RecordStore.prototype, "write", "writing a record");
  around(RecordStore.prototype, "remove", "removing a record");
  around(WorkerLinks.prototype, "serve", "giving a link to a worker");
  around(WorkerLinks.prototype, "release", "taking a link from a worker");
  around(HeldLink.prototype, "settle", "settling a journal");
  around(NbdNetlink.prototype, "connect", "CONNECT");
  around(NbdNetlink.prototype, "reconfigure", "RECONFIGURE");
  around(NbdNetlink.prototype, "disconnect", "DISCONNECT");
  // Instead of the bundle that the program is, whose classes are others. It ends the process itself.
  await from("./run.js");
  await new Promise(() => {});
}
