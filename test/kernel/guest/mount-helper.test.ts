/**
 * mount.erofs.nbd behind the real mount(8), umount(8), findmnt and fstab: what is mounted how, what a second mount and
 * a remount do, exit codes, another namespace, and that a plain umount ends everything.
 *
 * Runs inside a guest (or with --host).
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { cliFixture, expectNothingAttached, mountsAt } from "./cli-fixture.ts";
import { guarded } from "./leftovers.ts";
import { useMountHelper } from "./mount-helper-link.ts";
import { type CommandResult, cleanUpAfterFailure, run, statuses, until } from "./product.ts";

const SILENT: CommandResult = { code: 0, stdout: "", stderr: "" };

const files = cliFixture();
/** Both names have a space in them. */
const image = (): string => files.at("my image.erofs");
const place = (): string => files.at("my mnt");
/** As fstab and the kernel write it. */
const encoded = (path: string): string => path.replaceAll(" ", "\\040");
const mountInfo = (): string => {
  const lines = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  return lines.find((line) => line.split(" ")[4] === encoded(place())) ?? "";
};
const onTop = (): number => mountsAt(encoded(place()));
const utab = (): string => (existsSync("/run/mount/utab") ? readFileSync("/run/mount/utab", "utf8") : "");

useMountHelper();
beforeAll(() => {
  mkdirSync(place());
  symlinkSync(files.image, image());
  const options = "_netdev,nofail,x-systemd.requires=a.service,nbd.dead-timeout=60,noatime";
  writeFileSync(
    files.at("fstab"),
    `${encoded(image())} ${encoded(place())} erofs.nbd ${options} 0 0
${files.at("gone")} ${files.mountPoint} erofs.nbd nofail 0 0
`,
  );
});
const withFstab = (program: string, ...words: string[]): Promise<CommandResult> =>
  run(program, words, { LIBMOUNT_FSTAB: files.at("fstab") });

describe("mount(8)", () => {
  // Two last closes at the same time: the kernel sends a disconnect twice, the second to a closed socket.
  const guard = guarded([/^block nbd\d+: Send disconnect failed -32$/]);
  cleanUpAfterFailure();

  test("mounts with options of erofs-nbd and of the kernel; findmnt shows it, and umount ends everything", async () => {
    const options = "nbd.connections=2,noatime,nosuid,user_xattr";
    const words = ["-t", "erofs.nbd", "-o", options, image(), place()];
    expect(await run("mount", words)).toEqual(SILENT);
    const found = await run("findmnt", ["--json", place()]);
    const { filesystems } = JSON.parse(found.stdout) as { filesystems: Record<string, string>[] };
    expect(filesystems).toEqual([
      {
        target: place(),
        source: expect.stringMatching(/^\/dev\/nbd\d+$/),
        fstype: "erofs",
        options: expect.stringMatching(/^ro,nosuid,noatime,/),
      },
    ]);
    expect(await statuses()).toMatchObject([
      {
        links: [{ state: "up" }, { state: "up" }],
        mountPoints: [place()],
        device: filesystems[0]?.["source"],
      },
    ]);
    expect(await run("umount", [place()])).toEqual(SILENT);
    await expectNothingAttached();
  });

  test("mounts an fstab line once, however often mount -a runs, and remount changes its options", async () => {
    const both = await Promise.all([withFstab("mount", "-a"), withFstab("mount", "-a")]);
    expect(both).toEqual([SILENT, SILENT]);
    expect(onTop()).toBe(1);
    expect(mountInfo()).toContain(" ro,noatime - erofs /dev/nbd");
    // Sources in the table are devices, so only the helper can know that the line is mounted.
    expect(await withFstab("mount", "-a")).toEqual(SILENT);
    expect(await withFstab("mount", "-o", "remount,nodev", place())).toEqual(SILENT);
    expect(mountInfo()).toContain(" ro,nodev,noatime - erofs /dev/nbd");
    expect(onTop()).toBe(1);
    expect(await statuses()).toHaveLength(1);
    expect(mountsAt(files.mountPoint)).toBe(0);
    expect(utab()).toContain("_netdev");
    expect(await withFstab("umount", place())).toEqual(SILENT);
    expect(utab()).not.toContain(encoded(place()));
    await expectNothingAttached();
  });

  test("passes exit codes on, and leaves nothing of what cannot be mounted", async () => {
    guard.expectKernelLog(/erofs/);
    const mount = (...words: string[]) => run("mount", ["-t", "erofs.nbd", ...words]);
    expect(await mount(files.at("gone"), place())).toMatchObject({ code: 32, stdout: "" });
    expect(await mount("-o", "nbd.conns=2", image(), place())).toMatchObject({ code: 1, stdout: "" });
    const refused = await mount("-o", "no-such-option", image(), place());
    expect(refused).toMatchObject({ code: 32, stdout: "" });
    expect(refused.stderr).toMatch(/^erofs-nbd: cannot mount .*bad option/);
    expect(await mount("-f", image(), place())).toEqual(SILENT);
    expect(onTop()).toBe(0);
    await expectNothingAttached();
  });

  test("mounts with -N in another namespace alone, and the device ends with it", async () => {
    const other = spawn("unshare", ["--mount", "sh", "-c", "echo in; exec sleep 600"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      await once(other.stdout, "data");
      const words = ["-N", String(other.pid), "-t", "erofs.nbd", image(), place()];
      expect(await run("mount", words)).toEqual(SILENT);
      expect(onTop()).toBe(0);
      expect(readFileSync(`/proc/${other.pid}/mountinfo`, "utf8")).toContain(` ${encoded(place())} ro,`);
      expect(await statuses()).toMatchObject([{ state: "serving", mountPoints: [] }]);
    } finally {
      other.kill("SIGKILL");
      await once(other, "close");
    }
    await until("the end of the device", () => !existsSync("/run/erofs-nbd/control.sock"));
    await expectNothingAttached();
  });
});
