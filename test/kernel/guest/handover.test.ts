/**
 * Images that are elsewhere for the manager than for the command: another mount namespace, another root, a path that
 * leads elsewhere by now, or no path at all. The device has the bytes of the image that the command has opened, or
 * there is none.
 *
 * Runs inside a guest (or with --host). The manager runs in the test's own namespace and was started there before.
 */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ControlClient } from "../../../src/control/client.ts";
import {
  attachIn,
  expectBytes,
  files,
  LIBRARY,
  other,
  PARTITION_LINES,
  shell,
  useImages,
} from "./handover-rig.ts";
import { guarded } from "./leftovers.ts";
import { cleanUpAfterFailure, detachAll, reach, run, statuses } from "./product.ts";

useImages();

describe("the device has the bytes of the image that the command has open", () => {
  const guard = guarded();
  cleanUpAfterFailure();
  let manager: ControlClient;
  beforeEach(async () => {
    guard.expectKernelLog(PARTITION_LINES);
    manager = await reach();
  });
  afterEach(async () => {
    manager.close();
    await detachAll();
  });

  test("if it runs in another mount namespace, with another file at the path", async () => {
    const script = 'mount --bind "$OTHER" "$IMAGE"; exec $CLI attach --json "$IMAGE"';
    const device = await attachIn(script, "unshare", "-m");
    expectBytes(device, other());
    expect(device.source.uri).toBe(`descriptor:${files.image}`);
    const again = await attachIn('exec $CLI attach --json "$IMAGE"');
    expectBytes(again, files.image);
    expect(again.source.uri).toBe(files.image);
    // The path names what each of them sees there.
    const inside = (words: string) =>
      shell(`mount --bind "$OTHER" "$IMAGE"; $CLI ${words} "$IMAGE"`, "unshare", "-m");
    const seen = await inside("status --json");
    expect(JSON.parse(seen.stdout)).toMatchObject({ identifier: device.identifier });
    expect(await inside("detach")).toMatchObject({ code: 0, stdout: `detached ${device.device}\n` });
    expect(await inside("detach")).toMatchObject({ code: 3, stdout: "" });
    const left = await shell('$CLI status --json "$IMAGE"');
    expect(JSON.parse(left.stdout)).toMatchObject({ identifier: again.identifier });
  });

  test("if it mounts in another mount namespace", async () => {
    const script =
      'mount --bind "$OTHER" "$IMAGE"; $CLI mount "$IMAGE" "$MNT"; cat "$MNT/which"; $CLI umount "$MNT"';
    expect(await shell(script, "unshare", "-m")).toEqual({ code: 0, stdout: "other", stderr: "" });
  });

  test("and no mount is made where the device's node is another device's", async () => {
    await attachIn('exec $CLI attach --json --device 15 "$OTHER"');
    const script = 'mount --bind /dev/nbd15 /dev/nbd3; exec $CLI mount -o nbd.device=3 "$IMAGE" "$MNT"';
    const refused = await shell(script, "unshare", "-m");
    expect(refused).toMatchObject({ code: 32, stdout: "" });
    expect(refused.stderr).toMatch(
      /\/dev\/nbd3 is another device here, 43:\d+\nhint: create a node for 43:\d+ there/,
    );
    expect((await statuses()).map(({ index }) => index)).toEqual([15]);
  });

  test("if it runs under another root", async () => {
    const jail = files.at("jail");
    mkdirSync(jail);
    execFileSync("sh", [
      "-ec",
      'mount --rbind / "$0"; mount --make-rprivate "$0"; mount --bind "$1" "$0$2"',
      jail,
      other(),
      files.image,
    ]);
    try {
      const device = await attachIn('exec $CLI attach --json "$IMAGE"', "chroot", jail);
      expectBytes(device, other());
      expect(device.source.uri).toBe(`${jail}${files.image}`);
      manager.close();
      await detachAll();
    } finally {
      execFileSync("umount", ["-R", "-l", jail]);
    }
  });

  test("and a source module, which workers load by its path, is refused in another namespace", async () => {
    writeFileSync(
      files.at("module.mjs"),
      "export const open = () => ({ sizeBytes: 4096, read: (to) => void to.fill(7) });",
    );
    const module = JSON.stringify(files.at("module.mjs"));
    const program = `const { attach } = await import(${JSON.stringify(LIBRARY)});
      const device = await attach({ module: ${module} }).catch(({ message }) => message);
      console.log(device.device ?? device);
      await device.detach?.();`;
    const words = [process.execPath, "--input-type=module", "-e", program];
    const refused = await run("unshare", ["-m", ...words]);
    expect(refused.stdout).toMatch(/^cannot use source module .*: the manager is in another mount namespace/);
    expect(await statuses()).toEqual([]);
    expect((await run("env", words)).stdout).toMatch(/^\/dev\/nbd\d+$/m);
  });

  test("if the path is /dev/stdin, or a descriptor by its number", async () => {
    for (const script of [
      'exec $CLI attach --json /dev/stdin <"$OTHER"',
      'exec $CLI attach --json /proc/self/fd/7 7<"$OTHER"',
      'exec $CLI attach --json /dev/fd/7 7<>"$OTHER"',
    ]) {
      const device = await attachIn(script);
      expectBytes(device, other());
      expect(device.source.uri).toBe(other());
    }
    const piped = await shell('cat "$OTHER" | $CLI attach /dev/stdin');
    expect(piped).toMatchObject({ code: 1, stdout: "" });
    expect(piped.stderr).toMatch(/\/dev\/stdin: it is neither a regular file nor a block device/);
  });

  test("if the path is the number of a descriptor that the manager has, too", async () => {
    const { pid } = await manager.request("hello", {});
    const number = readdirSync(`/proc/${pid}/fd`).find((fd) =>
      readlinkSync(`/proc/${pid}/fd/${fd}`).endsWith("/manager.lock"),
    );
    const device = await attachIn(
      `exec bash -ec 'exec ${number}<"$OTHER"; exec $CLI attach --json /proc/self/fd/${number}'`,
    );
    expectBytes(device, other());
    expect(device.source.uri).toBe(other());
  });

  test("if it has been deleted, or a mount covers it", async () => {
    copyFileSync(other(), files.at("copy"));
    const gone = await attachIn(
      'exec 7<"$0"; rm "$0"; exec $CLI attach --json /proc/self/fd/7'.replaceAll("$0", files.at("copy")),
    );
    expectBytes(gone, other());
    expect(gone.source.uri).toBe(`descriptor:${files.at("copy")} (deleted)`);
    try {
      const covered = await attachIn(
        'exec 7<"$IMAGE"; mount --bind "$OTHER" "$IMAGE"; exec $CLI attach --json /proc/self/fd/7',
      );
      // The descriptor is the only way to it.
      expect(readFileSync(files.image).equals(readFileSync(other()))).toBe(true);
      expect(covered.source.uri).toBe(`descriptor:${files.image}`);
      execFileSync("umount", [files.image]);
      expectBytes(covered, files.image);
    } finally {
      execFileSync("sh", ["-c", 'while umount "$0" 2>/dev/null; do :; done', files.image]);
    }
  });
});
