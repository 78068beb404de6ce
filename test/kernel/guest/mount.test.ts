/**
 * `mount`, `umount`, and what a plain umount(8) leaves: nothing.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fillDirectory, makeImage } from "../../helpers/images/erofs-image.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  afterFailovers,
  allGone,
  attach,
  bothWorkersOf,
  CLI,
  cleanUpAfterFailure,
  erofsNbd,
  erofsNbdOk,
  expectFlawless,
  guardiansOf,
  killTogether,
  managerPids,
  readsInFlight,
  run,
  startReader,
  statuses,
  until,
  untilAsync,
  workerOf,
} from "./product.ts";

let directory: string;
let image: string;
let tree: string;
let mountPoint: string;

beforeAll(async () => {
  directory = mkdtempSync("/tmp/mount-");
  tree = join(directory, "tree");
  fillDirectory(tree, 60, 16 << 20);
  image = join(directory, "image.erofs");
  await makeImage(image, tree);
  mountPoint = join(directory, "a mount point");
  mkdirSync(mountPoint);
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** One sum over all files below a directory, names and contents. */
function checksum(root: string): string {
  const hash = createHash("sha256");
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true }).sort((a, b) =>
    a.name < b.name ? -1 : 1,
  )) {
    if (entry.isFile()) hash.update(entry.name).update(readFileSync(join(entry.parentPath, entry.name)));
  }
  return hash.digest("hex");
}

const dropCaches = async (): Promise<void> => {
  await run("sh", ["-c", "echo 3 > /proc/sys/vm/drop_caches"]);
};

describe("a mount", () => {
  guarded([...LINK_DEATH_LINES, /EXT4|erofs/]);
  cleanUpAfterFailure();

  test("shows the tree, survives its worker, and a plain umount ends everything", async () => {
    await erofsNbdOk("mount", image, mountPoint);
    const wanted = checksum(tree);
    expect(checksum(mountPoint)).toBe(wanted);
    const [device] = await statuses();
    if (device === undefined) throw new Error("nothing is attached");
    expect(device.mountPoints).toEqual([mountPoint]);
    const pids = [device.managerPid, ...(await bothWorkersOf(device.managerPid))];

    await dropCaches();
    const reader = await startReader(device.device ?? "", image);
    await until("reads in flight", () => readsInFlight(device.index ?? -1) > 0);
    process.kill(workerOf(device), "SIGKILL");
    const sum = checksum(mountPoint);
    await afterFailovers(device.device ?? "", 1);
    expectFlawless(await reader.stop());
    expect(sum).toBe(wanted);

    expect(await run("umount", [mountPoint])).toMatchObject({ code: 0 });
    await allGone(pids);
    expect(readdirSync("/run/erofs-nbd/devices")).toEqual([]);
    expect(existsSync(`/sys/block/nbd${device.index}/pid`)).toBe(false);
  });

  test("can be unmounted while no worker serves it, and its device ends", async () => {
    await erofsNbdOk("mount", image, mountPoint);
    const [device] = await statuses();
    if (device === undefined) throw new Error("nothing is attached");
    const { managerPid } = device;
    // With its guardian, too: what is seen is then what the next command does.
    await until("a guardian", () => guardiansOf(managerPid).length === 1);
    await killTogether(...guardiansOf(managerPid), managerPid, ...(await bothWorkersOf(managerPid)));
    expect(await run("umount", [mountPoint])).toMatchObject({ code: 0 });
    await until("the device's end", () => !existsSync(`/sys/block/nbd${device.index}/pid`));
    const seen = await erofsNbd("status");
    expect(seen).toMatchObject({ code: 0 });
    expect(seen.stderr).toContain("no longer attached");
    await until("no record", () => readdirSync("/run/erofs-nbd/devices").length === 0);
  });

  test("is undone by `erofs-nbd umount`, which returns when nothing is left", async () => {
    await erofsNbdOk("mount", image, mountPoint);
    const [device] = await statuses();
    await erofsNbdOk("umount", mountPoint);
    expect(existsSync(`/sys/block/nbd${device?.index}/pid`)).toBe(false);
    expect(readdirSync("/run/erofs-nbd/devices")).toEqual([]);
    await allGone([device?.managerPid ?? 1]);
  });

  test("that is interrupted at any moment is whole or leaves nothing", async () => {
    for (const waitMs of [400, 800, 1200, 1600, 2000, 2400]) {
      const child = spawn(process.execPath, [CLI, "mount", image, mountPoint], { stdio: "ignore" });
      const closed = once(child, "close");
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      child.kill("SIGKILL");
      await closed;
      // A mount(8) that was under way may still come to its end without its parent: then the mount is whole.
      await untilAsync("no device", async () => {
        const mounted = readFileSync("/proc/self/mountinfo", "utf8").includes("a\\040mount\\040point");
        if (mounted) expect(await run("umount", [mountPoint])).toMatchObject({ code: 0 });
        return !mounted && !mountRuns() && !isAnyConfigured();
      });
    }
    // One that was just being started for the last command finds nothing to do, and leaves.
    await until("the end of every manager", () => managerPids().length === 0);
  });

  test("is not detached without --force: the refusal names the mount points", async () => {
    await erofsNbdOk("mount", image, mountPoint);
    const refused = await erofsNbd("detach", image);
    expect(refused).toMatchObject({ code: 2 });
    expect(refused.stderr).toContain(`mounted at ${mountPoint}`);
    expect(checksum(mountPoint)).toBe(checksum(tree));
    await erofsNbdOk("detach", "--force", image);
    expect(await run("umount", [mountPoint])).toMatchObject({ code: 0 });
  });
});

const isAnyConfigured = (): boolean =>
  readdirSync("/sys/block").some((name) => name.startsWith("nbd") && existsSync(`/sys/block/${name}/pid`));

/** Whether a mount(8) of ours is still at work. */
function mountRuns(): boolean {
  return readdirSync("/proc").some((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith("mount\0-t\0erofs");
    } catch {
      return false;
    }
  });
}

describe("two attaches of one image", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("are two devices; detaching the image ends both", async () => {
    const first = await attach(image);
    const second = await attach(image);
    expect(second.index).not.toBe(first.index);
    expect(second.managerPid).toBe(first.managerPid);
    await erofsNbdOk("detach", image);
    await allGone([first.managerPid]);
  });
});
