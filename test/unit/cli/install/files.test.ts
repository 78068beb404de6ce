/** install-units: the files that it writes and takes back, and what it leaves alone. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { removeFiles, writeFiles } from "../../../../src/cli/install/installation.ts";
import { MARK, serviceFiles } from "../../../../src/cli/install/service-files.ts";
import { at, FILES, filesBelow, INSTALLATION, prefix, UNIT, usePrefix } from "./prefix.ts";

usePrefix();

describe("files", () => {
  test("are written with their modes, a second time unchanged, and taken back", () => {
    const paths = FILES.map(({ path }) => path).sort();
    expect(writeFiles(prefix, FILES, false).map(({ action }) => action)).toEqual(FILES.map(() => "written"));
    expect(filesBelow()).toEqual(paths);
    for (const { path, mode, text } of FILES) {
      expect(statSync(at(path)).mode & 0o777).toBe(mode);
      expect(readFileSync(at(path), "utf8")).toBe(text);
      expect(text).toContain(MARK);
    }
    expect(writeFiles(prefix, FILES, false).map(({ action }) => action)).toEqual(
      FILES.map(() => "unchanged"),
    );
    expect(removeFiles(prefix, FILES, false).map(({ action }) => action)).toEqual(FILES.map(() => "removed"));
    expect(filesBelow()).toEqual([]);
    expect(removeFiles(prefix, FILES, false).map(({ action }) => action)).toEqual(FILES.map(() => "absent"));
  });

  test("of another version, or with another mode, are written anew", () => {
    writeFiles(prefix, serviceFiles({ ...INSTALLATION, nodePath: "/usr/bin/node" }), false);
    chmodSync(at("/etc/modprobe.d/erofs-nbd.conf"), 0o600);
    const actions = new Map(writeFiles(prefix, FILES, false).map(({ path, action }) => [path, action]));
    expect(actions.get(at(UNIT))).toBe("written");
    expect(actions.get(at("/etc/modprobe.d/erofs-nbd.conf"))).toBe("written");
    expect(actions.get(at("/etc/modules-load.d/erofs-nbd.conf"))).toBe("unchanged");
    expect(statSync(at("/etc/modprobe.d/erofs-nbd.conf")).mode & 0o777).toBe(0o644);
  });

  test.each([0o000, 0o077])(
    "have the same modes with any umask, and so have their directories: %o",
    (mask) => {
      const before = process.umask(mask);
      try {
        writeFiles(prefix, FILES, false);
      } finally {
        process.umask(before);
      }
      for (const { path, mode } of FILES) {
        expect(statSync(at(path)).mode & 0o777).toBe(mode);
        for (let above = dirname(path); above !== "/"; above = dirname(above))
          expect(statSync(at(above)).mode & 0o7777, above).toBe(0o755);
      }
    },
  );

  test("are written below a prefix that does not exist yet", () => {
    writeFiles(at("/new/place"), FILES, false);
    expect(filesBelow()).toEqual(FILES.map(({ path }) => `/new/place${path}`).sort());
  });

  test("do not change the modes of existing directories", () => {
    mkdirSync(at("/etc/systemd"), { recursive: true });
    chmodSync(at("/etc"), 0o700);
    chmodSync(at("/etc/systemd"), 0o711);
    writeFiles(prefix, FILES, false);
    expect(statSync(at("/etc")).mode & 0o777).toBe(0o700);
    expect(statSync(at("/etc/systemd")).mode & 0o777).toBe(0o711);
  });

  test("are reported by a dry run, which changes nothing", () => {
    expect(writeFiles(prefix, FILES, true).map(({ action }) => action)).toEqual(FILES.map(() => "written"));
    expect(filesBelow()).toEqual([]);
    writeFiles(prefix, FILES, false);
    expect(removeFiles(prefix, FILES, true).map(({ action }) => action)).toEqual(FILES.map(() => "removed"));
    expect(filesBelow()).toHaveLength(FILES.length);
  });

  const foreign: Array<[what: string, make: (path: string) => void, why: string]> = [
    ["another file", (path) => writeFileSync(path, "[Unit]\n"), "it was not written by install-units"],
    ["a mask", (path) => symlinkSync("/dev/null", path), "it is masked"],
    ["a directory", (path) => mkdirSync(path), "it was not written by install-units"],
    [
      "a link that leads nowhere",
      (path) => symlinkSync("/nowhere", path),
      "it was not written by install-units",
    ],
  ];
  test.each(foreign)(
    "are not written where one would replace %s, which --remove leaves alone",
    (_, make, why) => {
      mkdirSync(at("/etc/modprobe.d"), { recursive: true });
      make(at("/etc/modprobe.d/erofs-nbd.conf"));
      const before = filesBelow();
      expect(() => writeFiles(prefix, FILES, false)).toThrow(
        expect.objectContaining({
          code: "ERR_BAD_ARGUMENT",
          message: `cannot write ${at("/etc/modprobe.d/erofs-nbd.conf")}: ${why}`,
        }),
      );
      expect(filesBelow()).toEqual(before);
      const removed = removeFiles(prefix, FILES, false).find(({ path }) => path.includes("modprobe"));
      expect(removed).toMatchObject({ action: "left alone" });
      expect(filesBelow()).toEqual(before);
    },
  );

  test("are written through links that stay inside the prefix, and through one to the prefix itself", () => {
    mkdirSync(at("/usr/bin"), { recursive: true });
    mkdirSync(at("/etc"));
    symlinkSync("bin", at("/usr/sbin"));
    symlinkSync("..", at("/etc/modprobe.d"));
    symlinkSync(".", at("/here"));
    expect(writeFiles(at("/here"), FILES, false).map(({ action }) => action)).toEqual(
      FILES.map(() => "written"),
    );
    expect(existsSync(at("/usr/bin/mount.erofs.nbd"))).toBe(true);
    expect(existsSync(at("/erofs-nbd.conf"))).toBe(true);
  });

  test("that cannot be written are named in an error, and no draft is left", () => {
    mkdirSync(at("/etc"), { recursive: true });
    writeFileSync(at("/etc/systemd"), "in the way");
    expect(() => writeFiles(prefix, FILES, false)).toThrow(
      /^cannot look at .*erofs-nbd\.service: a part of the path is not a directory$/,
    );
    expect(filesBelow()).toEqual(["/etc/systemd"]);
  });
});
