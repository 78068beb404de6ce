// @ts-check
/**
 * What the story (story.mjs) asks of the systemd guest: units, the manager's devices, processes, and a reader of the
 * mounted device. Waiting is always for a state, with a deadline.
 */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { LIMITS } from "../../limits.mjs";

export const CLI = fileURLToPath(new URL("../../../dist/src/cli/main.cjs", import.meta.url));
const READER = fileURLToPath(new URL("../../helpers/images/direct-reader.mjs", import.meta.url));
export const UNIT = "erofs-nbd.service";
const DEADLINE_MS = LIMITS.stepMs;
/** @type {typeof import("../../../src/control/client.ts")} */
const { ControlClient } = await import(new URL("../../../dist/src/control/client.js", import.meta.url).href);
/** @type {typeof import("../../../src/control/run-dir.ts")} */
const { chooseRunDir } = await import(new URL("../../../dist/src/control/run-dir.js", import.meta.url).href);

/**
 * Runs a program to its end.
 * @param {string} program
 * @param {readonly string[]} words
 * @returns {Promise<{ code: number, output: string }>}
 */
export function run(program, words) {
  return new Promise((resolve) => {
    execFile(program, words, { encoding: "utf8" }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
      resolve({ code, output: stdout + stderr });
    });
  });
}

/** @param {string[]} words */
export async function systemctl(...words) {
  const { code, output } = await run("systemctl", words);
  assert.equal(code, 0, `systemctl ${words.join(" ")}: ${output}`);
  return output;
}

/** @param {string} name @param {string} unit */
export async function property(name, unit = UNIT) {
  return (await systemctl("show", "--value", "-p", name, unit)).trim();
}

export const mainPid = async () => Number(await property("MainPID"));

/**
 * @param {string} what
 * @param {() => Promise<boolean> | boolean} holds
 */
export async function until(what, holds) {
  const end = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await delay(100);
  }
}

/**
 * What the manager says of its devices; undefined where none answers. Quicker than a command, which costs others their
 * turn.
 */
export async function devices() {
  const client = await ControlClient.connect(chooseRunDir("/run/erofs-nbd"));
  try {
    return (await client?.request("status", { target: null }))?.devices;
  } catch {
    return undefined;
  } finally {
    client?.close();
  }
}

/** The mounted device, once its manager answers and it is served. */
export async function mounted() {
  /** @type {import("../../../src/control/protocol.ts").DeviceStatus | undefined} */
  let found;
  await until("the mounted device is served", async () => {
    found = (await devices())?.find(({ mountPoints }) => mountPoints.includes("/mnt/image"));
    return found?.state === "serving";
  });
  if (found === undefined) throw new Error("never");
  return found;
}

/** @param {number} pid */
export const cgroupOf = (pid) => {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8").trim();
  } catch {
    // It has ended since it was listed.
    return undefined;
  }
};
/** @param {number} pid */
export const isAlive = (pid) => existsSync(`/proc/${pid}`);

/** Every worker process there is. */
export async function workerPids() {
  const { output } = await run("pgrep", ["-f", "^erofs-nbd worker"]);
  return output.trim().split("\n").filter(Boolean).map(Number);
}

/** @param {(pid: number) => Promise<unknown>} act another manager is there afterwards, and it is the unit's */
export async function expectAnotherManager(act) {
  const before = await mainPid();
  await act(before);
  await until("another manager answers, which is the unit's", async () => {
    const pid = (await devices())?.[0]?.managerPid;
    return pid !== undefined && pid !== before && pid === (await mainPid());
  });
  const device = await mounted();
  assert.equal(await property("ActiveState"), "active");
  assert.equal(
    device.counters.reconnects + device.counters.failedFailovers,
    0,
    JSON.stringify(device.counters),
  );
  return device;
}

/** A reader of the whole device, until it is told to stop. */
export function startReader() {
  // It rests between its reads: one processor is there for everything.
  const words = [READER, "/dev/nbd0", "/srv/image.erofs", "2", "4096", "1000", "random", "30"];
  const child = spawn(process.execPath, words, {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, UV_THREADPOOL_SIZE: "2" },
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    begun: lines.next(),
    stop: async () => {
      child.stdin.end();
      return JSON.parse((await lines.next()).value);
    },
  };
}
