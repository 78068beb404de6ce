/**
 * Images that are elsewhere for the manager than for the command: another mount namespace, another root, a path that
 * leads elsewhere by now, or no path at all. The device has the bytes of the image that the command has opened, or
 * there is none.
 *
 * Runs inside a guest (or with --host). The manager runs in the test's own namespace and was started there before.
 */
import { execFileSync } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ControlClient } from "../../../src/control/client.ts";
import {
  attachIn,
  expectBytes,
  files,
  LIBRARY,
  loseEverything,
  other,
  PARTITION_LINES,
  shell,
  startReading,
  useImages,
} from "./handover-rig.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  bothWorkersOf,
  cleanUpAfterFailure,
  detachAll,
  erofsNbd,
  erofsNbdOk,
  guardiansOf,
  killTogether,
  reach,
  run,
  status,
  statuses,
  statusWhen,
} from "./product.ts";

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

describe("after everything has died, with another file at the path", () => {
  const guard = guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();
  beforeEach(() => {
    guard.expectKernelLog(
      PARTITION_LINES,
      /^(loop: module loaded|loop0: detected capacity change from \d+ to \d+|nbd: nbd5 already in use)$/,
    );
  });
  afterEach(() => {
    execFileSync("sh", ["-c", 'while umount "$0" 2>/dev/null; do :; done', files.image]);
  });

  test("a device waits with the reason, returns no byte of that file, and goes on after an attach", async () => {
    // On a file system that is no longer mounted when everything has died: a file handle would lead to the image.
    const disk = files.at("a disk");
    const path = `${disk}/image`;
    const mountDisk = (source: string): void => {
      execFileSync("mount", ["-t", "tmpfs", "tmpfs", disk]);
      copyFileSync(source, path);
    };
    mkdirSync(disk);
    mountDisk(files.image);
    const device = await attachIn(`exec $CLI attach --json "${path}"`);
    const fd = openSync(path, "r");
    const image = readFileSync(fd);
    try {
      execFileSync("umount", ["-l", disk]);
      mountDisk(other());
      const lost = await loseEverything(device);
      expect(lost).toMatchObject({
        state: "stalled",
        identifier: device.identifier,
        stalledReason: expect.stringMatching(
          new RegExp(`^${path} is not what was attached: .*: erofs-nbd attach IMAGE$`),
        ),
      });
      const shown = await erofsNbd("status");
      expect(shown.stdout + shown.stderr).toContain("is not what was attached");
      const reading = await startReading(lost);
      const wrong = await attachIn(`exec $CLI attach --json "${path}"`);
      expect(wrong.index).not.toBe(device.index);
      await erofsNbdOk("detach", `${wrong.device}`);
      const { code, stdout, stderr } = await shell(
        `exec 7</proc/${process.pid}/fd/${fd}; exec $CLI attach --json /proc/self/fd/7`,
      );
      expect(code, stderr).toBe(0);
      expect(JSON.parse(stdout)).toMatchObject({
        device: device.device,
        identifier: device.identifier,
        state: "serving",
      });
      expect(stderr).toBe(`note: nbd${device.index} was waiting for this image, and goes on with it\n`);
      expect((await reading()).subarray(0, image.length).equals(image)).toBe(true);
      await detachAll();
    } finally {
      closeSync(fd);
      execFileSync("umount", [disk]);
    }
  });

  test("an image that was handed in must be handed in again, by any process that can open it", async () => {
    const manager = await reach();
    const script = 'mount --bind "$OTHER" "$IMAGE"; exec $CLI attach --json "$IMAGE"';
    const device = await attachIn(script, "unshare", "-m");
    manager.close();
    const lost = await loseEverything(device);
    expect(lost).toMatchObject({
      state: "stalled",
      stalledReason:
        `descriptor:${files.image} was handed in as a descriptor: ` +
        "no path leads to it from here; hand the image in: erofs-nbd attach IMAGE",
    });
    const reading = await startReading(lost);
    // A mount wants a device of its own; the other one goes on all the same.
    const mounted = await shell('$CLI mount "$OTHER" "$MNT"; cat "$MNT/which"; $CLI umount "$MNT"');
    expect(mounted).toMatchObject({ code: 0, stdout: "other" });
    const wanted = readFileSync(other());
    expect((await reading()).subarray(0, wanted.length).equals(wanted)).toBe(true);
    const after = await statusWhen(device.device ?? "", "service", ({ state }) => state === "serving");
    expect(after).toMatchObject({ identifier: device.identifier, source: { uri: other() } });
    await detachAll();
  });

  test("a disk that was created again, with the same number and size, is not taken for the same", async () => {
    execFileSync("modprobe", ["loop"]);
    copyFileSync(files.image, files.at("disk"));
    copyFileSync(files.image, files.at("next"));
    writeFileSync(files.at("next"), "x", { flag: "r+" });
    execFileSync("losetup", ["/dev/loop0", files.at("disk")]);
    try {
      const device = await attachIn("exec $CLI attach --json /dev/loop0");
      const { managerPid } = device;
      const workers = await bothWorkersOf(managerPid);
      // Without a guardian no manager begins before the disk is another one.
      await killTogether(managerPid, ...workers, ...guardiansOf(managerPid));
      execFileSync("losetup", ["-d", "/dev/loop0"]);
      execFileSync("losetup", ["/dev/loop0", files.at("next")]);
      await erofsNbdOk("status");
      expect(await status(device.device ?? "")).toMatchObject({
        state: "stalled",
        stalledReason: expect.stringContaining(
          "/dev/loop0 is not what was attached: its device number now belongs to another disk or medium",
        ),
      });
      await detachAll();
    } finally {
      execFileSync("losetup", ["-d", "/dev/loop0"]);
    }
  });

  test("an index of another image shows no byte of the former one, even if it was held open", async () => {
    const first = await attachIn('exec $CLI attach --json --device 5 "$IMAGE"');
    const held = openSync("/dev/nbd5", "r");
    expectBytes(first, files.image);
    await detachAll();
    // The kernel keeps the index, and with it the pages, for who has it open.
    const refused = await shell('exec $CLI attach --device 5 "$OTHER"');
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    closeSync(held);
    const second = await attachIn('exec $CLI attach --json --device 5 "$OTHER"');
    expectBytes(second, other());
    await detachAll();
  });
});
