/** findWeakness: every way in which others than root may change a file, and the first place where they may. */
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findWeakness } from "../../../../src/cli/install/who-may-write.ts";

let top: string;
let file: string;
const at = (path: string): string => join(top, path);

beforeEach(() => {
  top = realpathSync(mkdtempSync(join(tmpdir(), "who-may-write-")));
  mkdirSync(at("usr/bin"), { recursive: true });
  file = at("usr/bin/node");
  writeFileSync(file, "");
  for (const path of ["", "usr", "usr/bin", "usr/bin/node"]) chmodSync(at(path), 0o755);
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

describe("by mode", () => {
  test("root's alone, or its group's: none", () => {
    expect(findWeakness(file, top)).toBeUndefined();
    chmodSync(file, 0o775);
    expect(findWeakness(file, top)).toBeUndefined();
  });

  test.each(["usr/bin/node", "usr/bin", "usr", ""])("any user may write %s", (path) => {
    chmodSync(at(path), 0o757);
    const remedy = `remove the permission: chmod o-w ${join(top, path)}`;
    expect(findWeakness(file, top)).toEqual({ path: join(top, path), who: "any user", remedy });
  });

  test("in a sticky directory others change nothing, and the bit means nothing on a file", () => {
    chmodSync(at("usr"), 0o1777);
    expect(findWeakness(file, top)).toBeUndefined();
    chmodSync(file, 0o1757);
    expect(findWeakness(file, top)).toMatchObject({ path: file, who: "any user" });
  });

  test("what is above the top, not there, or outside is not this tree's", () => {
    chmodSync(at("usr"), 0o757);
    expect(findWeakness(file, at("usr/bin"))).toBeUndefined();
    expect(findWeakness(at("usr/bin/none"), top)).toBeUndefined();
    symlinkSync(at("usr/bin/node"), at("usr/bin/link"));
    expect(findWeakness(at("usr/bin/link"), at("usr/bin"))).toBeUndefined();
    expect(findWeakness(at("usr/bin/link"), top)).toMatchObject({ path: at("usr") });
    mkdirSync(at("elsewhere"));
    expect(findWeakness(file, at("elsewhere"))).toBeUndefined();
  });
});

describe.runIf(process.geteuid?.() === 0)("by owner", () => {
  test.each(["usr/bin/node", "usr/bin", "usr"])(
    "another user's %s, writable or not, sticky or not",
    (path) => {
      chownSync(at(path), 1234, 0);
      chmodSync(at(path), 0o1555);
      expect(findWeakness(file, top)).toMatchObject({ path: at(path), who: "user 1234" });
    },
  );

  test.each(["usr/bin/node", "usr/bin", "usr"])(
    "another group that may write %s, and one that may not",
    (path) => {
      chownSync(at(path), 0, 1234);
      expect(findWeakness(file, top)).toBeUndefined();
      chmodSync(at(path), 0o775);
      expect(findWeakness(file, top)).toMatchObject({ path: at(path), who: "group 1234" });
    },
  );

  test("the owner of a root directory for another machine is trusted", () => {
    for (const path of ["", "usr", "usr/bin"]) {
      chownSync(at(path), 1234, 1234);
      chmodSync(at(path), 0o775);
    }
    expect(findWeakness(file, top)).toBeUndefined();
    chownSync(at("usr"), 4321, 1234);
    expect(findWeakness(file, top)).toMatchObject({ path: at("usr"), who: "user 4321" });
  });
});
