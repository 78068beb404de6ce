/**
 * The lab itself, seen from inside: the requested kernel, with nbd and erofs, over a host that cannot be written to;
 * and the leftover check finds what it is for.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { cpus, release } from "node:os";
import { describe, expect, test } from "vitest";
import { assertNoLeftovers, assertQuietLog, guarded, ORDINARY_LINES, snapshot } from "./leftovers.ts";

const series = process.env["EROFS_NBD_LAB_KERNEL"];
/** The leftovers here stay on purpose: no need to wait for them to go. */
const SHORT_GRACE_MS = 200;
const inGuest = series !== undefined;

function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${status}: ${stderr}`);
  return stdout;
}

describe("the kernel", () => {
  guarded();

  test.runIf(inGuest)("is of the requested series", () => {
    expect(release().startsWith(`${series?.replace("-smp", "")}.`)).toBe(true);
  });

  test.runIf(inGuest)("has as many processors as its name says", () => {
    expect(cpus()).toHaveLength(series?.endsWith("-smp") === true ? 2 : 1);
  });

  test("has erofs", () => {
    run("modprobe", "erofs");
    expect(readFileSync("/proc/filesystems", "utf8")).toMatch(/^\s+erofs$/m);
  });

  test("has nbd devices once the module is loaded, and the module can be reloaded", () => {
    if (inGuest) {
      run("rmmod", "nbd");
      expect(existsSync("/dev/nbd0")).toBe(false);
    }
    run("modprobe", "nbd");
    expect(existsSync("/dev/nbd0")).toBe(true);
    expect(readFileSync("/sys/block/nbd0/size", "utf8").trim()).toBe("0");
  });
});

describe.runIf(inGuest)("the host's files", () => {
  guarded();

  test("are mounted read-only under an overlay", () => {
    const lines = readFileSync("/proc/self/mounts", "utf8").split("\n");
    const writable = lines
      .filter((line) => / (hostfs|virtiofs) rw/.test(line))
      .map((line) => line.split(" ")[1]);
    expect(writable).toEqual([process.env["EROFS_NBD_LAB_SHARE"]]);
    expect(lines.some((line) => line.startsWith("overlay / overlay rw"))).toBe(true);
  });

  test("take writes that only the guest sees", () => {
    const path = new URL("written-by-a-guest.tmp", import.meta.url);
    // Each kernel starts afresh: a guest's file reaches neither the host nor the next guest.
    expect(existsSync(path)).toBe(false);
    writeFileSync(path, "x");
    expect(existsSync(path)).toBe(true);
  });
});

describe("the leftover check", () => {
  test("reports a process that is still there", async () => {
    const before = snapshot();
    const child = spawn("/bin/sh", ["-c", "sleep 60; : erofs-nbd"], { stdio: "ignore" });
    await once(child, "spawn");
    try {
      await expect(assertNoLeftovers(before, SHORT_GRACE_MS)).rejects.toThrow(/process \d+ \d+: .*sleep 60/);
    } finally {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
  });

  test("reports an open file and a listening socket", async () => {
    const before = snapshot();
    const fd = openSync("/etc/hostname", "r");
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    try {
      await expect(assertNoLeftovers(before, SHORT_GRACE_MS)).rejects.toThrow(
        /descriptor \d+: \/etc\/hostname[\s\S]*socket:/,
      );
    } finally {
      closeSync(fd);
      server.close();
      await once(server, "close");
    }
  });

  test.runIf(inGuest)("reports a mount", async () => {
    const before = snapshot();
    run("mount", "-t", "tmpfs", "left-here", "/mnt");
    try {
      await expect(assertNoLeftovers(before, SHORT_GRACE_MS)).rejects.toThrow(
        /mount \d+: tmpfs left-here on \/mnt/,
      );
    } finally {
      run("umount", "/mnt");
    }
  });

  describe("of the kernel log", () => {
    const guard = guarded();

    test.runIf(inGuest)("reports a warning unless it was expected", () => {
      writeFileSync("/dev/kmsg", "<4>lab: a warning of the test's own");
      writeFileSync("/dev/kmsg", "<6>block nbd0: NBD_DISCONNECT");
      expect(() => assertQuietLog(guard.kernelLog(), ORDINARY_LINES)).toThrow(/lab: a warning/);
      guard.expectKernelLog(/^lab: a warning/);
    });
  });
});
