/** install-units: links out of the prefix, and parts that are read-only or file systems of their own. */
import { spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { describe, expect, test } from "vitest";
import { type FileAction, removeFiles, writeFiles } from "../../../../src/cli/install/installation.ts";
import { MARK } from "../../../../src/cli/install/service-files.ts";
import { at, FILES, FORMER_UNIT, filesBelow, PROGRAM, prefix, UNIT, usePrefix } from "./prefix.ts";

usePrefix();

describe("files", () => {
  const ways: Array<[where: string, link: string, to: (outside: string) => string]> = [
    ["by the whole way", "/etc", (outside) => outside],
    ["by a relative link", "/etc", (outside) => relative(prefix, outside)],
    ["in the middle", "/etc/modprobe.d", (outside) => outside],
    ["to a place that is not there", "/etc", () => "/nowhere"],
  ];
  test.each(ways)("are neither written nor removed through a link out of the prefix, %s", (_, link, to) => {
    const outside = mkdtempSync(join(tmpdir(), "install-units-outside-"));
    try {
      for (const name of ["systemd/system", "sysusers.d", "modules-load.d", "modprobe.d"])
        mkdirSync(join(outside, name), { recursive: true });
      const theirs = [join(outside, "modprobe.d/erofs-nbd.conf"), join(outside, "erofs-nbd.conf")];
      for (const path of theirs) writeFileSync(path, `# ${MARK}`);
      mkdirSync(dirname(at(link)), { recursive: true });
      symlinkSync(to(outside), at(link));
      const before = [filesBelow(), readdirSync(outside, { recursive: true })];
      for (const [what, act] of [
        ["write", writeFiles],
        ["remove", removeFiles],
      ] as const) {
        expect(() => act(prefix, FILES, false)).toThrow(
          expect.objectContaining({
            code: "ERR_BAD_ARGUMENT",
            message: expect.stringMatching(
              new RegExp(`^cannot ${what} .*${link}.* leads to .*, out of ${prefix}$`),
            ),
          }),
        );
        expect([filesBelow(), readdirSync(outside, { recursive: true })]).toEqual(before);
      }
      expect(readFileSync(theirs[0] ?? "", "utf8")).toBe(`# ${MARK}`);
    } finally {
      rmSync(outside, { recursive: true });
    }
  });
});

describe("on a machine of several file systems", () => {
  /**
   * What the command says where a shell has mounted something below the prefix, $1, in a mount namespace of its own.
   */
  const runWith = (mounting: string, ...words: string[]) => {
    const asRoot = process.geteuid?.() === 0 ? [] : ["--map-root-user"];
    const script = `set -e; cd "$1"; ${mounting}; shift; exec "$@"`;
    const cli = [process.execPath, PROGRAM, "install-units", "--prefix", prefix, "--json", ...words];
    const { status, stdout, stderr } = spawnSync(
      "unshare",
      [...asRoot, "--mount", "sh", "-c", script, "sh", prefix, ...cli],
      { encoding: "utf8" },
    );
    const files: FileAction[] = status === 0 ? JSON.parse(stdout).files : [];
    return { status, stderr, of: (path: string) => files.find((file) => file.path === at(path)) };
  };
  const readOnly = (path: string) => `mount --bind ${path} ${path}; mount -o remount,bind,ro ${path}`;

  test("a read-only /usr sends the units to /etc and keeps the mount helper out; both are reported", () => {
    mkdirSync(at("/usr/sbin"), { recursive: true });
    const first = runWith(readOnly("usr"));
    expect(first, first.stderr).toMatchObject({ status: 0, stderr: "" });
    expect(first.of(FORMER_UNIT)).toMatchObject({
      action: "written",
      reason: "/usr/local/lib/systemd/system is read-only",
    });
    expect(first.of("/usr/sbin/mount.erofs.nbd")).toMatchObject({
      action: "left alone",
      reason: "/usr/sbin is read-only",
    });
    expect(runWith(readOnly("usr")).of(FORMER_UNIT)?.action).toBe("unchanged");
    expect(filesBelow()).toHaveLength(FILES.length - 1);
    expect(runWith(readOnly("usr"), "--remove")).toMatchObject({ status: 0 });
    expect(filesBelow()).toEqual([]);
  });

  test("a read-only /usr with files of install-units is unchanged, and left alone by --remove", () => {
    runWith(":");
    expect(runWith(readOnly("usr")).of(UNIT)?.action).toBe("unchanged");
    expect(runWith(readOnly("usr"), "--remove").of(UNIT)).toMatchObject({
      action: "left alone",
      reason: expect.stringMatching(/ is read-only$/),
    });
  });

  test("a read-only place of a required file keeps all from being written", () => {
    mkdirSync(at("/etc/modprobe.d"), { recursive: true });
    const { status, stderr } = runWith(readOnly("etc/modprobe.d"));
    expect(stderr).toContain(
      `cannot write ${at("/etc/modprobe.d/erofs-nbd.conf")}: its file system is read-only\n`,
    );
    expect(status).toBe(2);
    expect(filesBelow()).toEqual([]);
  });

  test("a /usr/local that is mounted after systemd has read its units sends them to /etc", () => {
    mkdirSync(at("/usr/local"), { recursive: true });
    expect(runWith("mount -t tmpfs none usr/local").of(FORMER_UNIT)).toMatchObject({
      action: "written",
      reason: "/usr/local/lib/systemd/system is on a file system of its own",
    });
  });
});
