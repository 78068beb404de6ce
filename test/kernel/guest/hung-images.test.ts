/**
 * Images that the next manager cannot open by their path, after every process has been killed: their file system does
 * not answer, or a mount covers the path. Other devices do not wait for them, and they go on as soon as they can.
 *
 * The file system that does not answer is an EROFS image with images inside, attached by a manager of its own whose
 * processes are stopped. Runs inside a guest (or with --host).
 */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { makeImage } from "../../helpers/images/erofs-image.ts";
import {
  attachIn,
  expectBytes,
  files,
  other,
  PARTITION_LINES,
  shell,
  startReading,
  useImages,
} from "./handover-rig.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import {
  bothWorkersOf,
  CLI,
  cleanUpAfterFailure,
  erofsNbd,
  erofsNbdOk,
  expectFlawless,
  guardiansOf,
  killTogether,
  run,
  startReader,
  status,
  statuses,
  statusWhen,
  untilAsync,
} from "./product.ts";

useImages();

const guard = guarded(LINK_DEATH_LINES);
cleanUpAfterFailure();
beforeEach(() => guard.expectKernelLog(PARTITION_LINES));

const records = (name: string): string => `/run/erofs-nbd/devices/${name}.json`;
const dropCaches = (): void => writeFileSync("/proc/sys/vm/drop_caches", "3");

/** No process of the first manager is left, and no other manager has been started. */
async function killEverything({ managerPid }: DeviceStatus): Promise<void> {
  await killTogether(managerPid, ...(await bothWorkersOf(managerPid)), ...guardiansOf(managerPid));
}

describe("an image on a file system that does not answer", () => {
  const OUTER = { EROFS_NBD_RUN_DIR: "/run/outer" };
  const outer = async (...words: string[]): Promise<string> => {
    const { code, stdout, stderr } = await run(process.execPath, [CLI, ...words], OUTER);
    expect(code, stderr).toBe(0);
    return stdout;
  };
  const inner = (name: string): string => `${files.mountPoint}/${name}`;
  let node = "";
  let processes: readonly number[] = [];
  const mount = (): void => void execFileSync("mount", ["-t", "erofs", "-o", "ro", node, files.mountPoint]);
  /** From now on it does not answer, and nothing of it is in the kernel's caches. */
  async function hang(): Promise<void> {
    const isUnmounted = async (): Promise<boolean> => (await run("umount", [files.mountPoint])).code === 0;
    await untilAsync("the end of all use", isUnmounted);
    mount();
    signal("SIGSTOP");
    writeFileSync("/proc/sys/vm/drop_caches", "3");
  }
  const signal = (name: NodeJS.Signals): void => {
    for (const pid of processes) process.kill(pid, name);
  };

  beforeEach(async () => {
    mkdirSync(files.at("outer-tree"), { recursive: true });
    for (const name of ["one", "two"]) copyFileSync(other(), files.at(`outer-tree/${name}`));
    await makeImage(files.at("outer.erofs"), files.at("outer-tree"));
    const device = JSON.parse(await outer("attach", "--json", files.at("outer.erofs"))) as DeviceStatus;
    node = device.device ?? "";
    mount();
    processes = [device.managerPid, ...(await bothWorkersOf(device.managerPid))];
  });
  afterEach(async () => {
    signal("SIGCONT");
    await erofsNbd("detach", "--all", "--force");
    execFileSync("umount", [files.mountPoint]);
    await outer("detach", "--all");
  });

  test("holds up no other device at a manager's start, is shown, and goes on when it answers", async () => {
    const healthy = await attachIn('exec $CLI attach --json "$IMAGE"');
    const hung = await attachIn(`exec $CLI attach --json "${inner("one")}"`);
    const also = await attachIn(`exec $CLI attach --json "${inner("two")}"`);
    const reader = await startReader(healthy.device ?? "", files.image, 4);
    await killEverything(healthy);
    await hang();
    const first = await erofsNbd("status");
    expect(first.stdout).toContain(inner("one"));
    const now = await statusWhen(healthy.device ?? "", "service", ({ state }) => state === "serving");
    for (const device of [hung, also])
      expect(await status(device.device ?? "")).toMatchObject({
        state: "stalled",
        identifier: device.identifier,
        stalledReason: expect.stringMatching(
          /^\/.*\/(one|two) cannot be opened yet: a file system on the way to it does not answer; .*attach IMAGE$/,
        ),
      });
    const report = await reader.stop();
    process.stderr.write(`The other device's longest read took ${report.longestMs} ms\n`);
    expectFlawless(report);
    // Another one can be attached, and both can be detached, meanwhile. An open that is under way is ended.
    guard.expectKernelLog(/^erofs \(device nbd\d+\): failed to read inode meta block \(nid: \d+\): -4$/);
    const third = await attachIn('exec $CLI attach --json "$OTHER"');
    await erofsNbdOk("detach", third.device ?? "");
    await erofsNbdOk("detach", also.device ?? "");
    const reading = await startReading(await status(hung.device ?? ""));
    signal("SIGCONT");
    const after = await statusWhen(hung.device ?? "", "service", ({ state }) => state === "serving");
    expect(after).toMatchObject({ identifier: hung.identifier, managerPid: now.managerPid });
    const wanted = readFileSync(other());
    expect((await reading()).subarray(0, wanted.length).equals(wanted)).toBe(true);
    expectBytes(after, other());
    expectBytes(now, files.image);
    await erofsNbdOk("detach", "--all");
  });
});

describe("an image whose path is covered by a mount", () => {
  /** A directory with an image, which is mounted on that very directory. */
  async function mountOnItself(): Promise<DeviceStatus> {
    const directory = files.at("own");
    mkdirSync(directory, { recursive: true });
    copyFileSync(files.image, `${directory}/i.erofs`);
    await erofsNbdOk("mount", `${directory}/i.erofs`, directory);
    const [device] = await statuses();
    expect(device?.mountPoints).toEqual([directory]);
    return device as DeviceStatus;
  }

  test("of its own is found by its file handle after everything was killed, and the mount goes on", async () => {
    const device = await mountOnItself();
    await killEverything(device);
    dropCaches();
    await erofsNbdOk("status");
    const after = await statusWhen(device.device ?? "", "service", ({ state }) => state === "serving");
    expect(after).toMatchObject({ identifier: device.identifier, counters: { failedFailovers: 0 } });
    expect(readFileSync(files.at("own/which"), "utf8")).toBe("first");
    await erofsNbdOk("umount", files.at("own"));
  });

  test("and so is one that another file is mounted over", async () => {
    const device = await attachIn('exec $CLI attach --json "$IMAGE"');
    const wanted = readFileSync(files.image);
    execFileSync("mount", ["--bind", other(), files.image]);
    try {
      await killEverything(device);
      await erofsNbdOk("status");
      const after = await statusWhen(device.device ?? "", "service", ({ state }) => state === "serving");
      expect(after).toMatchObject({ identifier: device.identifier, source: { uri: files.image } });
      expect(
        readFileSync(after.device ?? "")
          .subarray(0, wanted.length)
          .equals(wanted),
      ).toBe(true);
      await erofsNbdOk("detach", "--all");
    } finally {
      execFileSync("umount", [files.image]);
    }
  });

  test("and that has no handle in its record, is shown, and goes on when a command hands it in", async () => {
    const device = await mountOnItself();
    await killEverything(device);
    const path = records(device.identifier);
    const { imageHandle, ...former } = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    expect(imageHandle).not.toBeNull();
    writeFileSync(path, JSON.stringify(former));
    dropCaches();
    expect((await erofsNbd("status")).stdout).toContain("stalled");
    expect(await status(device.device ?? "")).toMatchObject({
      state: "stalled",
      stalledReason: expect.stringContaining("does not answer"),
    });
    // The file is still reached where nothing is mounted on its directory.
    const handIn = 'umount -l "$DIR"; exec 7<"$DIR/i.erofs"; exec $CLI attach --json /proc/self/fd/7';
    const handed = await shell(handIn.replaceAll("$DIR", files.at("own")), "unshare", "-m");
    expect(handed.code, handed.stderr).toBe(0);
    expect(JSON.parse(handed.stdout)).toMatchObject({ identifier: device.identifier, state: "serving" });
    expect(readFileSync(files.at("own/which"), "utf8")).toBe("first");
    await erofsNbdOk("umount", files.at("own"));
  });
});
