/**
 * mount, umount and attach --foreground on a real kernel: what they leave, also when they are refused, interrupted or
 * killed.
 *
 * Runs inside a guest (or with --host).
 */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { cliFixture, expectNothingAttached, expectRefusal, mountsAt, RUN_DIR, start } from "./cli-fixture.ts";
import { guarded } from "./leftovers.ts";
import { attach, erofsNbd, erofsNbdOk, status, workersOf } from "./product.ts";

const files = cliFixture();

describe("mount and umount", () => {
  const guard = guarded();

  test("a plain umount ends everything", async () => {
    expect(await erofsNbd("mount", files.image, files.mountPoint)).toEqual({
      code: 0,
      stdout: "",
      stderr: "",
    });
    expect(readdirSync(files.mountPoint)).toEqual(readdirSync(files.at("tree")));
    execFileSync("umount", [files.mountPoint]);
    await expectNothingAttached();
  });

  test("umount returns when everything is gone; a busy mount fails with the error of umount(8)", async () => {
    await erofsNbdOk("mount", "-o", "noatime", files.image, files.mountPoint);
    const busy = openSync(join(files.mountPoint, readdirSync(files.mountPoint)[0] ?? ""), "r");
    try {
      const refused = await erofsNbd("umount", files.mountPoint);
      expectRefusal(refused, 32, /busy/i);
    } finally {
      closeSync(busy);
    }
    const [device] = JSON.parse(await erofsNbdOk("status", "--json")) as DeviceStatus[];
    expect(await erofsNbd("umount", files.mountPoint)).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(readdirSync(`${RUN_DIR}/devices`)).toEqual([]);
    expect(existsSync(`/sys/block/nbd${device?.index}/pid`)).toBe(false);
    await expectNothingAttached();
  });

  test("a device that was attached and mounted by hand is detached with its last mount", async () => {
    const { device, index } = await attach(files.image);
    mkdirSync(files.at("other"));
    for (const place of [files.mountPoint, files.at("other")]) {
      execFileSync("mount", ["-t", "erofs", "-o", "ro", `${device}`, place]);
    }
    const first = await erofsNbd("umount", files.mountPoint);
    expect(first).toMatchObject({ code: 0, stdout: "" });
    expect(first.stderr).toBe(`note: ${device} stays attached: it is also mounted at ${files.at("other")}\n`);
    expect(await erofsNbd("umount", files.at("other"))).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(existsSync(`/sys/block/nbd${index}/pid`)).toBe(false);
    await expectNothingAttached();
  });

  test("mount options that the kernel refuses end with 32 and the error of mount(8)", async () => {
    guard.expectKernelLog(/erofs/);
    expectRefusal(
      await erofsNbd("mount", "-o", "no-such-option", files.image, files.mountPoint),
      32,
      /cannot mount .+: ./,
    );
    expect(mountsAt(files.mountPoint)).toBe(0);
    await expectNothingAttached();
  });

  test("an interrupted mount leaves nothing", async () => {
    const command = start(["mount", files.image, files.mountPoint]);
    await command.hasBegun();
    command.kill("SIGINT");
    const result = await command.ended;
    expectRefusal(result, 8, /interrupted by SIGINT/);
    expect(mountsAt(files.mountPoint)).toBe(0);
    await expectNothingAttached();
  });

  test("a mount command that is killed leaves nothing", async () => {
    const command = start(["mount", files.image, files.mountPoint]);
    await command.hasBegun();
    command.kill("SIGKILL");
    await command.ended;
    await expectNothingAttached();
  });
});

describe("attach --foreground", () => {
  guarded();

  test("detaches at a signal and ends with 0; while mounted it refuses", async () => {
    const command = start(["attach", "--foreground", files.image]);
    const node = await command.next("stdout");
    expect(node).toMatch(/^\/dev\/nbd\d+$/);
    execFileSync("mount", ["-t", "erofs", "-o", "ro", node, files.mountPoint]);
    const refusal = command.next("stderr");
    command.kill("SIGINT");
    expect(await refusal).toMatch(/cannot detach nbd\d+: it is mounted at/);
    expect(JSON.parse(await erofsNbdOk("status", "--json", node))).toMatchObject({ state: "serving" });
    execFileSync("umount", [files.mountPoint]);
    command.kill("SIGTERM");
    expect(await command.ended).toMatchObject({ code: 0, stdout: `${node}\n` });
    await expectNothingAttached();
  });

  test("starts workers that can gain no rights, on any thread", async () => {
    const command = start(["attach", "--foreground", files.image]);
    const node = await command.next("stdout");
    const { managerPid } = await status(node);
    const threads = workersOf(managerPid).flatMap((pid) =>
      readdirSync(`/proc/${pid}/task`).map((tid) => `/proc/${pid}/task/${tid}`),
    );
    expect(threads.length).toBeGreaterThan(1);
    for (const thread of threads)
      expect(readFileSync(`${thread}/status`, "utf8")).toMatch(/^NoNewPrivs:\s*1$/m);
    command.kill("SIGTERM");
    expect(await command.ended).toMatchObject({ code: 0 });
    await expectNothingAttached();
  });

  test("ends at a detach from elsewhere, too", async () => {
    const command = start(["attach", "--foreground", files.image]);
    const node = await command.next("stdout");
    await erofsNbdOk("detach", node);
    expect(await command.ended).toMatchObject({ code: 0, stderr: "" });
    await expectNothingAttached();
  });

  test("leaves nothing when it is interrupted", async () => {
    const command = start(["attach", files.image]);
    await command.hasBegun();
    command.kill("SIGTERM");
    const result = await command.ended;
    expectRefusal(result, 8, /interrupted by SIGTERM/);
    await expectNothingAttached();
  });
});
