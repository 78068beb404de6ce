// @ts-check
/**
 * What a machine with erofs-nbd as a service goes through, told step by step: run by a unit inside the systemd guest.
 *
 * Writes one JSON line per step into $EROFS_NBD_LAB_SHARE/story.jsonl: its name, and what went wrong. A reader of the
 * device runs through all of it and compares every byte. The shutdown after the last step is judged by what comes after
 * this process; see systemd.test.ts.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { appendFileSync, copyFileSync, readFileSync, writeFileSync } from "node:fs";
import {
  CLI,
  cgroupOf,
  devices,
  expectAnotherManager,
  isAlive,
  mainPid,
  mounted,
  property,
  run,
  startReader,
  systemctl,
  UNIT,
  until,
  workerPids,
} from "./machine.mjs";

const SHARE = process.env["EROFS_NBD_LAB_SHARE"] ?? "/tmp";
/** @type {typeof import("../../../src/index.ts")} */
const { attach } = await import(new URL("../../../dist/src/index.js", import.meta.url).href);

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
