// @ts-check
/**
 * A worker that is killed at its k-th step: the real one, with every store into a journal and every system call of the
 * read-serving loop counted. SIGKILL comes before the k-th of them.
 *
 *   STEP_KILL=k STEP_LOG=file node step-worker.mjs      (0: never)
 *
 * STEP_ONLY=send,free counts steps of those names only.
 * Counting begins with the first journal that it maps, after its warm-up. The step's name goes into the log first.
 */
import { openSync, writeSync } from "node:fs";
import { register } from "node:module";

const last = Number(process.env["STEP_KILL"] ?? 0);
const only = process.env["STEP_ONLY"]?.split(",");
// Opened now: a worker has no rights later.
const logFd = openSync(process.env["STEP_LOG"] ?? "/dev/null", "a");
const LOOP = ["recv", "send", "write", "spliceFromFile", "spliceToSocket", "pread", "statxInto"];
let steps = 0;
let armed = false;

/** @param {string} name */
function step(name) {
  if (!armed || last === 0 || only?.includes(name) === false) return;
  steps += 1;
  if (steps !== last) return;
  writeSync(logFd, `${name}\n`);
  process.kill(process.pid, "SIGKILL");
}

/** @param {string} name @param {unknown} value */
function countCalls(name, value) {
  if (typeof value !== "function") return value;
  if (name === "mapShared") {
    return (/** @type {unknown[]} */ ...args) => {
      armed = true;
      return value(...args);
    };
  }
  if (!LOOP.includes(name)) return value;
  return (/** @type {unknown[]} */ ...args) => {
    step(name);
    return value(...args);
  };
}
Object.assign(globalThis, { countCalls });

const store = Atomics.store;
Object.assign(Atomics, {
  store: (/** @type {Int32Array} */ words, /** @type {number} */ at, /** @type {number} */ value) => {
    step(
      at === 1
        ? value === -1
          ? "idle"
          : value % 2 === 0
            ? "filling"
            : "filled"
        : value === 0
          ? "free"
          : "mark",
    );
    return store(words, at, value);
  },
});

register("./step-hooks.mjs", import.meta.url);
await import("../../../dist/src/worker/start.js");
