// @ts-check
/**
 * What a machine with erofs-nbd as a service goes through, told step by step: run by a unit inside the systemd guest.
 *
 * Writes one JSON line per step into $EROFS_NBD_LAB_SHARE/story.jsonl: its name, and what went wrong. A reader of the
 * device runs through all of it and compares every byte. The shutdown after the last step is judged by what comes after
 * this process; see systemd.test.ts.
 */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { appendFileSync, copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { LIMITS } from "../../limits.mjs";

const SHARE = process.env["EROFS_NBD_LAB_SHARE"] ?? "/tmp";
const CLI = fileURLToPath(new URL("../../../dist/src/cli/main.cjs", import.meta.url));
const READER = fileURLToPath(new URL("../../helpers/images/direct-reader.mjs", import.meta.url));
const UNIT = "erofs-nbd.service";
const DEADLINE_MS = LIMITS.stepMs;
/** @type {typeof import("../../../src/control/client.ts")} */
const { ControlClient } = await import(new URL("../../../dist/src/control/client.js", import.meta.url).href);
/** @type {typeof import("../../../src/control/run-dir.ts")} */
const { chooseRunDir } = await import(new URL("../../../dist/src/control/run-dir.js", import.meta.url).href);

/** @type {typeof import("../../../src/index.ts")} */
const { attach } = await import(new URL("../../../dist/src/index.js", import.meta.url).href);

/**
 * Runs a program to its end.
 * @param {string} program
 * @param {readonly string[]} words
 * @returns {Promise<{ code: number, output: string }>}
 */
function run(program, words) {
  return new Promise((resolve) => {
    execFile(program, words, { encoding: "utf8" }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
      resolve({ code, output: stdout + stderr });
    });
  });
}

/** @param {string[]} words */
async function systemctl(...words) {
  const { code, output } = await run("systemctl", words);
  assert.equal(code, 0, `systemctl ${words.join(" ")}: ${output}`);
  return output;
}

/** @param {string} name @param {string} unit */
async function property(name, unit = UNIT) {
  return (await systemctl("show", "--value", "-p", name, unit)).trim();
}

const mainPid = async () => Number(await property("MainPID"));

/**
 * @param {string} what
 * @param {() => Promise<boolean> | boolean} holds
 */
async function until(what, holds) {
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
async function devices() {
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
async function mounted() {
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
const cgroupOf = (pid) => {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8").trim();
  } catch {
    // It has ended since it was listed.
    return undefined;
  }
};
/** @param {number} pid */
const isAlive = (pid) => existsSync(`/proc/${pid}`);

/** Every worker process there is. */
async function workerPids() {
  const { output } = await run("pgrep", ["-f", "^erofs-nbd worker"]);
  return output.trim().split("\n").filter(Boolean).map(Number);
}

/** @param {(pid: number) => Promise<unknown>} act another manager is there afterwards, and it is the unit's */
async function expectAnotherManager(act) {
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
function startReader() {
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

/** @type {ReturnType<typeof startReader>} */
let reader;

/** @type {Array<[name: string, act: () => Promise<void>]>} */
const STEPS = [
  [
    "boot: the manager is ready before the mount of the fstab, and both are there",
    async () => {
      assert.equal(await property("ActiveState"), "active");
      assert.equal(await property("ActiveState", "mnt-image.mount"), "active");
      assert.match(await property("StatusText"), /^1 device: 1 serving$/);
      const [ready, mount] = await Promise.all([
        property("ActiveEnterTimestampMonotonic"),
        property("ActiveEnterTimestampMonotonic", "mnt-image.mount"),
      ]);
      assert.ok(Number(ready) < Number(mount), `ready at ${ready}, mounted at ${mount}`);
      const device = await mounted();
      assert.equal(device.managerPid, await mainPid());
      for (const pid of await workerPids()) {
        assert.equal(cgroupOf(pid), "0::/system.slice/erofs-nbd.service");
        // What the unit forbids is forbidden to workers, too.
        const status = readFileSync(`/proc/${pid}/status`, "utf8");
        assert.match(status, /^NoNewPrivs:\t1$/m);
        assert.match(status, /^Seccomp:\t2$/m);
      }
      reader = startReader();
      assert.equal((await reader.begun).value, "reading");
    },
  ],
  [
    "restart under load: another manager, the same worker",
    async () => {
      const before = await mounted();
      const after = await expectAnotherManager(() => systemctl("restart", UNIT));
      assert.equal(after.links[0]?.workerPid, before.links[0]?.workerPid);
      assert.equal(after.counters.takeovers, 0);
    },
  ],
  [
    "reload under load: fresh workers, the same manager",
    async () => {
      const before = await mounted();
      await systemctl("reload", UNIT);
      const after = await mounted();
      assert.equal(after.managerPid, before.managerPid);
      assert.notEqual(after.links[0]?.workerPid, before.links[0]?.workerPid);
      assert.equal(await property("ActiveState"), "active");
    },
  ],
  [
    "upgrade under load: the unit goes on with the manager that it started itself",
    async () => {
      await expectAnotherManager(async () => {
        const { code, output } = await run(process.execPath, [CLI, "upgrade"]);
        assert.equal(code, 0, output);
        assert.match(output, /replaced manager and 2 workers/);
      });
    },
  ],
  [
    "a manager that stands still is ended by the watchdog, and started again",
    async () => {
      const restarts = Number(await property("NRestarts"));
      let stopped = 0;
      await expectAnotherManager(async (pid) => {
        stopped = pid;
        process.kill(pid, "SIGSTOP");
      });
      assert.ok(!isAlive(stopped));
      assert.ok(Number(await property("NRestarts")) > restarts);
    },
  ],
  [
    "an automatic manager makes way for the service, and the workers it has started are replaced",
    async () => {
      await systemctl("stop", UNIT);
      const child = spawn(process.execPath, [CLI, "manager", "--auto"], { stdio: "ignore" });
      const ended = new Promise((resolve) => child.once("exit", resolve));
      const device = await mounted();
      assert.equal(device.managerPid, child.pid);
      process.kill(device.links[0]?.workerPid ?? 0, "SIGKILL");
      const own = cgroupOf(process.pid);
      await until("a worker runs beside us", async () =>
        (await workerPids()).some((pid) => cgroupOf(pid) === own),
      );
      await until("it was taken over", async () => (await mounted()).counters.takeovers > 0);
      await systemctl("start", UNIT);
      assert.equal(await ended, 0);
      assert.equal((await mounted()).managerPid, await mainPid());
      await until("every worker is the service's", async () =>
        (await workerPids()).every((pid) => cgroupOf(pid) !== own),
      );
    },
  ],
  [
    "a command that needs a manager starts the service",
    async () => {
      await systemctl("stop", UNIT);
      assert.equal(await property("ActiveState"), "inactive");
      const { code, output } = await run(process.execPath, [CLI, "status"]);
      assert.equal(code, 0, output);
      assert.equal(await property("ActiveState"), "active");
      assert.equal((await mounted()).managerPid, await mainPid());
    },
  ],
  [
    "masked, for good or until the next boot, it does not start",
    async () => {
      await systemctl("stop", UNIT);
      for (const how of [["mask"], ["mask", "--runtime"]]) {
        await systemctl(...how, UNIT);
        const { output } = await run("systemctl", ["start", UNIT]);
        assert.match(output, /masked/);
        await systemctl(...how.map((word) => word.replace("mask", "unmask")), UNIT);
      }
      await systemctl("start", UNIT);
      assert.equal((await mounted()).managerPid, await mainPid());
    },
  ],
  [
    "a program that attaches starts the service, and its device is like any other",
    async () => {
      await systemctl("stop", UNIT);
      const device = await attach("/srv/other-image.erofs");
      assert.equal(await property("ActiveState"), "active");
      const { managerPid, source } = await device.status();
      assert.equal(managerPid, await mainPid());
      assert.equal(source.uri, "/srv/other-image.erofs");
      await device.detach();
    },
  ],
  [
    "within the unit's limits an image is leased, and a process that writes it waits and is let go on",
    async () => {
      // The machine's root is an overlay, whose leases mean nothing.
      copyFileSync("/srv/other-image.erofs", "/run/leased.erofs");
      const device = await attach("/run/leased.erofs");
      await until("it is leased", async () => (await device.status()).exact === "lease");
      // udev reads a new device. After the change it would get errors, which the kernel logs.
      await run("sh", ["-c", "udevadm settle --timeout=60 || true"]);
      const { code, output } = await run("dd", [
        "if=/dev/zero",
        "of=/run/leased.erofs",
        "bs=4096",
        "count=1",
        "conv=notrunc",
      ]);
      assert.equal(code, 0, output);
      await until(
        "the change is told",
        async () => (await device.status()).imageChange === "it was modified",
      );
      await device.detach();
    },
  ],
  [
    "erofs-nbd@IMAGE attaches and detaches, and leaves another device of the image alone",
    async () => {
      const other = await attach("/srv/other-image.erofs");
      const uris = async () => (await devices())?.map(({ source }) => source.uri).sort();
      await systemctl("start", "erofs-nbd@srv-other\\x2dimage.erofs.service");
      assert.deepEqual(await uris(), [
        "/srv/image.erofs",
        "/srv/other-image.erofs",
        "/srv/other-image.erofs",
      ]);
      await systemctl("stop", "erofs-nbd@srv-other\\x2dimage.erofs.service");
      assert.deepEqual(await uris(), ["/srv/image.erofs", "/srv/other-image.erofs"]);
      assert.equal((await other.status()).source.uri, "/srv/other-image.erofs");
      await other.detach();
    },
  ],
  [
    "through all of this, no read failed and every byte was right",
    async () => {
      const report = await reader.stop();
      assert.equal(report.errors + report.mismatches, 0, JSON.stringify(report));
      assert.ok(report.reads > 0);
      appendFileSync(`${SHARE}/stdout`, `reads: ${report.reads}, longest ${report.longestMs} ms\n`);
    },
  ],
];

for (const [name, act] of STEPS) {
  const startedAt = performance.now();
  /** @type {string | null} */
  let problem = null;
  try {
    await act();
  } catch (error) {
    problem = /** @type {Error} */ (error).message;
  }
  const tookMs = Math.round(performance.now() - startedAt);
  appendFileSync(`${SHARE}/story.jsonl`, `${JSON.stringify({ name, problem, tookMs })}\n`);
}
writeFileSync("/dev/kmsg", "the story ends\n");
process.exit(0);
