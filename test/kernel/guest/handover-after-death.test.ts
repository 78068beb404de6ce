/**
 * Images whose paths lead elsewhere when manager and workers have all died: a device waits with the reason, and no byte
 * of another file is read from it.
 *
 * Runs inside a guest (or with --host), as handover.test.ts does.
 */
import { execFileSync } from "node:child_process";
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  attachIn,
  expectBytes,
  files,
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
  status,
  statusWhen,
} from "./product.ts";

useImages();

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
