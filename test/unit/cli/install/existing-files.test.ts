/** install-units: files that it finds in the places of its own: links, npm's helper, units of a former version. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { removeFiles, writeFiles } from "../../../../src/cli/install/installation.ts";
import { MARK, serviceFiles } from "../../../../src/cli/install/service-files.ts";
import { isInstalled } from "../../../../src/control/reach/system-service.ts";
import { at, FILES, FORMER_UNIT, filesBelow, INSTALLATION, prefix, UNIT, usePrefix } from "./prefix.ts";

usePrefix();

describe("files", () => {
  const HELPER = "/usr/sbin/mount.erofs.nbd";
  const planForHelper = () => writeFiles(prefix, FILES, false).find(({ path }) => path === at(HELPER));

  test("replace a link to the mount helper: mount(8) gives no PATH, by which it would find Node", () => {
    mkdirSync(at("/usr/sbin"), { recursive: true });
    mkdirSync(at("/usr/bin"), { recursive: true });
    writeFileSync(at("/usr/bin/node"), "");
    writeFileSync(at("/mount-helper.js"), "theirs");
    symlinkSync(at("/mount-helper.js"), at("/mount.erofs.nbd"));
    symlinkSync(at("/mount.erofs.nbd"), at(HELPER));
    const reason = `instead of a link to ${at("/mount-helper.js")}`;
    expect(planForHelper()).toMatchObject({ action: "written", reason });
    expect(readFileSync(at(HELPER), "utf8")).toContain(MARK);
    expect(readFileSync(at("/mount-helper.js"), "utf8")).toBe("theirs");
  });

  test.each(["/root/.nvm/versions/node/v18.0.0/bin/mount.erofs.nbd", "../lib/erofs-nbd/mount-helper.js"])(
    "replace a link to a mount helper that does not exist any more: %s",
    (words) => {
      mkdirSync(at("/usr/sbin"), { recursive: true });
      symlinkSync(words, at(HELPER));
      const reason = `instead of a link to ${words}, which does not exist`;
      expect(planForHelper()).toMatchObject({ action: "written", reason });
      expect(readFileSync(at(HELPER), "utf8")).toContain(MARK);
    },
  );

  test("do not replace a link of that name to another program", () => {
    mkdirSync(at("/usr/sbin"), { recursive: true });
    writeFileSync(at("/mount.erofs.nbd"), "");
    symlinkSync(at("/mount.erofs.nbd"), at(HELPER));
    expect(planForHelper).toThrow(/it was not written by install-units/);
  });

  test.each([
    ["/usr/bin/node", "left alone"],
    ["/usr/local/bin/node", "written"],
  ])("leave npm's own link alone if it finds Node: with %s it is %s", (node, action) => {
    const program = "lib/node_modules/erofs-nbd/dist/src/cli/mount-helper.cjs";
    for (const path of [node, `/usr/${program}`, "/usr/bin/x"]) {
      mkdirSync(dirname(at(path)), { recursive: true });
      writeFileSync(at(path), "");
    }
    symlinkSync("bin", at("/usr/sbin"));
    symlinkSync(`../${program}`, at("/usr/bin/mount.erofs.nbd"));
    expect(planForHelper()).toMatchObject({ action, reason: expect.stringContaining(at(`/usr/${program}`)) });
  });

  test("replace units of a former version, which would take precedence and could not be masked", () => {
    mkdirSync(at(dirname(FORMER_UNIT)), { recursive: true });
    for (const name of ["erofs-nbd.service", "erofs-nbd@.service"])
      writeFileSync(at(`/etc/systemd/system/${name}`), `# ${MARK}, version 0.1.0\n`);
    const actions = writeFiles(prefix, FILES, false);
    expect(actions.find(({ path }) => path === at(UNIT))?.action).toBe("written");
    expect(actions.filter(({ action }) => action === "removed")).toEqual([
      expect.objectContaining({
        path: at(FORMER_UNIT),
        reason: "it is in /usr/local/lib/systemd/system now",
      }),
      expect.objectContaining({ path: at("/etc/systemd/system/erofs-nbd@.service") }),
    ]);
    expect(filesBelow()).toEqual(FILES.map(({ path }) => path).sort());
  });

  const inFormerPlace: Array<[what: string, make: (path: string) => void, isRemoved: boolean]> = [
    ["an administrator's own", (path) => writeFileSync(path, "[Unit]\n"), false],
    ["a copy made by systemctl edit --full", (path) => writeFileSync(path, `# ${MARK}\n`), true],
    ["a mask", (path) => symlinkSync("/dev/null", path), false],
  ];
  test.each(inFormerPlace)("leave alone %s that takes precedence over the unit", (_, make, isRemoved) => {
    writeFiles(prefix, FILES, false);
    mkdirSync(at(dirname(FORMER_UNIT)), { recursive: true });
    make(at(FORMER_UNIT));
    for (const nodePath of ["/usr/bin/node", "/bin/node"]) {
      const actions = writeFiles(prefix, serviceFiles({ ...INSTALLATION, nodePath }), false);
      expect(actions.find(({ path }) => path === at(UNIT))?.action).toBe("written");
      expect(actions.find(({ path }) => path === at(FORMER_UNIT))?.action).toBe("left alone");
    }
    // A unit without a program belongs to no installation.
    const removed = removeFiles(prefix, FILES, false);
    expect(removed.find(({ path }) => path === at(FORMER_UNIT))?.action).toBe(
      isRemoved ? "removed" : "left alone",
    );
    expect(filesBelow()).toEqual(isRemoved ? [] : [FORMER_UNIT]);
  });

  test("go to /etc while /usr/local leads to a directory that does not exist yet", () => {
    mkdirSync(at("/usr"));
    symlinkSync("../var/usrlocal", at("/usr/local"));
    const reason = `${at("/usr/local")} leads to nowhere, out of ${prefix}`;
    expect(writeFiles(prefix, FILES, false)[0]).toEqual({ path: at(FORMER_UNIT), action: "written", reason });
    expect(writeFiles(prefix, FILES, false)[0]).toMatchObject({ action: "unchanged", reason });
    expect(removeFiles(prefix, FILES, false)[0]).toMatchObject({ action: "removed" });
    expect(filesBelow()).toEqual(["/usr/local"]);
    writeFiles(prefix, FILES, false);
    mkdirSync(at("/var/usrlocal"), { recursive: true });
    expect(writeFiles(prefix, FILES, false)[0]).toMatchObject({ path: at(UNIT), action: "written" });
    expect(existsSync(at(FORMER_UNIT))).toBe(false);
  });

  test("can be masked by systemctl, and stay enabled when the units move", (context) => {
    const systemctl = (...words: string[]) =>
      spawnSync("systemctl", [`--root=${prefix}`, ...words], { encoding: "utf8" });
    if (systemctl("--version").status !== 0) context.skip("systemctl is not on this machine");
    const former = FILES.flatMap(({ formerPath, ...file }) =>
      formerPath === undefined ? [] : [{ ...file, path: formerPath }],
    );
    writeFiles(prefix, former, false);
    expect(systemctl("enable", "erofs-nbd.service", "erofs-nbd@srv-a.service").status).toBe(0);
    writeFiles(prefix, FILES, false);
    const states = systemctl("is-enabled", "erofs-nbd.service", "erofs-nbd@srv-a.service");
    expect(states.stdout).toBe("enabled\nenabled\n");
    const { status, stderr } = systemctl("mask", "erofs-nbd.service");
    expect(status, stderr).toBe(0);
    expect(systemctl("is-enabled", "erofs-nbd.service").stdout).toBe("masked\n");
    expect(isInstalled(prefix)).toBe(false);
  });
});
