/**
 * install-units: what it writes and takes back under a prefix, whose files it leaves alone, and what systemd itself
 * says of the units. Nothing here touches the machine's own units.
 */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type FileAction, removeFiles, writeFiles } from "../../../../src/cli/install/installation.ts";
import { MARK, serviceFiles, unitWord } from "../../../../src/cli/install/service-files.ts";
import { isInstalled } from "../../../../src/control/reach/system-service.ts";
import { runCli } from "../run-cli.ts";

const INSTALLATION = {
  nodePath: "/opt/node 20/bin/node",
  programDirectory: "/usr/lib/node_modules/erofs-nbd/dist/src/cli",
  systemdVersion: 252,
  version: "1.2.3",
};
const FILES = serviceFiles(INSTALLATION);
const UNIT = "/usr/local/lib/systemd/system/erofs-nbd.service";
const PROGRAM = join(import.meta.dirname, "../../../../dist/src/cli/main.cjs");
const FORMER_UNIT = "/etc/systemd/system/erofs-nbd.service";

let prefix: string;
beforeEach(() => {
  prefix = mkdtempSync(join(tmpdir(), "install-units-"));
});
afterEach(() => rmSync(prefix, { recursive: true, force: true }));

const at = (path: string): string => join(prefix, path);
const filesBelow = (): string[] =>
  readdirSync(prefix, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(prefix.length))
    .sort();

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

  test("a prefix that is not there is made", () => {
    writeFiles(at("/new/place"), FILES, false);
    expect(filesBelow()).toEqual(FILES.map(({ path }) => `/new/place${path}`).sort());
  });

  test("directories that are there keep their modes", () => {
    mkdirSync(at("/etc/systemd"), { recursive: true });
    chmodSync(at("/etc"), 0o700);
    chmodSync(at("/etc/systemd"), 0o711);
    writeFiles(prefix, FILES, false);
    expect(statSync(at("/etc")).mode & 0o777).toBe(0o700);
    expect(statSync(at("/etc/systemd")).mode & 0o777).toBe(0o711);
  });

  test("a dry run says the same and changes nothing", () => {
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
    "%s in their place: refused before anything is written, and left alone by --remove",
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

  const HELPER = "/usr/sbin/mount.erofs.nbd";
  const planForHelper = () => writeFiles(prefix, FILES, false).find(({ path }) => path === at(HELPER));

  test("a link to the mount helper is replaced: mount(8) gives no PATH, by which it would find Node", () => {
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
    "a link to a mount helper that is gone is replaced, too: %s",
    (words) => {
      mkdirSync(at("/usr/sbin"), { recursive: true });
      symlinkSync(words, at(HELPER));
      const reason = `instead of a link to ${words}, which does not exist`;
      expect(planForHelper()).toMatchObject({ action: "written", reason });
      expect(readFileSync(at(HELPER), "utf8")).toContain(MARK);
    },
  );

  test("a link of that name to another program is not replaced", () => {
    mkdirSync(at("/usr/sbin"), { recursive: true });
    writeFileSync(at("/mount.erofs.nbd"), "");
    symlinkSync(at("/mount.erofs.nbd"), at(HELPER));
    expect(planForHelper).toThrow(/it was not written by install-units/);
  });

  test.each([
    ["/usr/bin/node", "left alone"],
    ["/usr/local/bin/node", "written"],
  ])("npm's own link in that very place, with Node as %s: %s", (node, action) => {
    const program = "lib/node_modules/erofs-nbd/dist/src/cli/mount-helper.cjs";
    for (const path of [node, `/usr/${program}`, "/usr/bin/x"]) {
      mkdirSync(dirname(at(path)), { recursive: true });
      writeFileSync(at(path), "");
    }
    symlinkSync("bin", at("/usr/sbin"));
    symlinkSync(`../${program}`, at("/usr/bin/mount.erofs.nbd"));
    expect(planForHelper()).toMatchObject({ action, reason: expect.stringContaining(at(`/usr/${program}`)) });
  });

  test("units of a former version make way, for good: they would count more, and mask could not replace them", () => {
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
  test.each(inFormerPlace)("%s that takes precedence over the unit is left alone", (_, make, isRemoved) => {
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

  test("units go to /etc where /usr/local leads to what is made later, and come back from there", () => {
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

  test("systemctl can mask the unit, and what had been enabled before it moved still is", (context) => {
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

  const ways: Array<[where: string, link: string, to: (outside: string) => string]> = [
    ["by the whole way", "/etc", (outside) => outside],
    ["by a relative link", "/etc", (outside) => relative(prefix, outside)],
    ["in the middle", "/etc/modprobe.d", (outside) => outside],
    ["to a place that is not there", "/etc", () => "/nowhere"],
  ];
  test.each(ways)(
    "a link out of the prefix, %s: nothing is written or removed, here or there",
    (_, link, to) => {
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
    },
  );

  test("a link that stays inside is followed, and so is one to the prefix itself", () => {
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

  test("a place that cannot be written: an error that names it, and no draft is left", () => {
    mkdirSync(at("/etc"), { recursive: true });
    writeFileSync(at("/etc/systemd"), "in the way");
    expect(() => writeFiles(prefix, FILES, false)).toThrow(
      /^cannot look at .*erofs-nbd\.service: a part of the path is not a directory$/,
    );
    expect(filesBelow()).toEqual(["/etc/systemd"]);
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

  test("/usr is read-only: the units go to /etc, the mount helper is left, and both is said", () => {
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

  test("/usr is read-only and has files of install-units: unchanged, and left alone by --remove", () => {
    runWith(":");
    expect(runWith(readOnly("usr")).of(UNIT)?.action).toBe("unchanged");
    expect(runWith(readOnly("usr"), "--remove").of(UNIT)).toMatchObject({
      action: "left alone",
      reason: expect.stringMatching(/ is read-only$/),
    });
  });

  test("what cannot be done without is read-only: nothing is written", () => {
    mkdirSync(at("/etc/modprobe.d"), { recursive: true });
    const { status, stderr } = runWith(readOnly("etc/modprobe.d"));
    expect(stderr).toContain(
      `cannot write ${at("/etc/modprobe.d/erofs-nbd.conf")}: its file system is read-only\n`,
    );
    expect(status).toBe(2);
    expect(filesBelow()).toEqual([]);
  });

  test("/usr/local is mounted after systemd has read its units: they go to /etc", () => {
    mkdirSync(at("/usr/local"), { recursive: true });
    expect(runWith("mount -t tmpfs none usr/local").of(FORMER_UNIT)).toMatchObject({
      action: "written",
      reason: "/usr/local/lib/systemd/system is on a file system of its own",
    });
  });
});

describe("texts", () => {
  const text = (path: string, more = {}): string =>
    serviceFiles({ ...INSTALLATION, ...more }).find((file) => file.path === path)?.text ?? "";

  test("words of a unit: blanks, quotes, percent and dollar signs are systemd's own", () => {
    expect(unitWord("/usr/bin/node")).toBe("/usr/bin/node");
    expect(unitWord("/opt/a b")).toBe('"/opt/a b"');
    expect(unitWord('/opt/100%/"$x"\\')).toBe('"/opt/100%%/\\"$$x\\"\\\\"');
    expect(unitWord("/opt/100%")).toBe("/opt/100%%");
  });

  test("the mount helper runs with the Node that was chosen, with any path, and passes words on", () => {
    const node = at('/a node\'s "$(path)"');
    writeFileSync(node, '#!/bin/sh\nprintf "<%s>" "$@"\n', { mode: 0o755 });
    const helper = at("/helper");
    writeFileSync(helper, text("/usr/sbin/mount.erofs.nbd", { nodePath: node, programDirectory: "/p q" }), {
      mode: 0o755,
    });
    const { stdout } = spawnSync(helper, ["/an image", "/mnt", "-o", "ro"], { encoding: "utf8" });
    expect(stdout).toBe("</p q/mount-helper.cjs></an image></mnt><-o><ro>");
  });

  test("a line without a priority is logged as an error: the last output of a process", () => {
    expect(text(UNIT)).toMatch(/^\[Service\][^[]*\nSyslogLevel=err\n/m);
  });

  test("an image's unit detaches what it has attached: by its identifier, or by the path without one", () => {
    const unit = text("/usr/local/lib/systemd/system/erofs-nbd@.service", { nodePath: "NODE" });
    /** A command line's script, as systemd gives it to the shell, with the words after it. */
    const runLine = (name: string, ...words: string[]): string => {
      const [, script = ""] = new RegExp(`^${name}=/bin/sh -c '(.*)' %`, "m").exec(unit) ?? [];
      return spawnSync("/bin/sh", ["-c", script.replaceAll("$$", "$"), ...words], { encoding: "utf8" })
        .stdout;
    };
    const status = { device: "/dev/nbd3", identifier: "1b2c-3", source: { uri: "/an identifier: x," } };
    const record = at("/a record");
    expect(runLine("ExecStart", record, "printf", "%s", JSON.stringify(status, null, 2))).toBe("");
    expect(JSON.parse(readFileSync(record, "utf8"))).toEqual(status);
    expect(runLine("ExecStop", "/an image", record, "printf", "<%s>", "--")).toBe("<--><1b2c-3>");
    expect(runLine("ExecStop", "/an image", at("/gone"), "printf", "<%s>", "--")).toBe("<--></an image>");
  });

  test("what an older systemd does not know is not written", () => {
    expect(text(UNIT)).not.toContain("SurviveFinalKillSignal");
    // It is a directive of [Unit]: elsewhere systemd would ignore it.
    expect(text(UNIT, { systemdVersion: 255 })).toMatch(/^SurviveFinalKillSignal=yes\n\n\[Service\]$/m);
  });

  test("systemd has nothing to say against the units, with blanks in paths or without", (context) => {
    if (spawnSync("systemd-analyze", ["--version"]).status !== 0)
      context.skip("systemd-analyze is not on this machine");
    const node = at("/usr/bin/a node");
    mkdirSync(at("/usr/bin"), { recursive: true });
    writeFileSync(node, "", { mode: 0o755 });
    for (const nodePath of [process.execPath, node]) {
      const files = serviceFiles({ ...INSTALLATION, nodePath }).filter(({ path }) =>
        path.endsWith(".service"),
      );
      writeFiles(prefix, files, false);
      const units = files.map(({ path }) => at(path));
      const verify = (): string => {
        const { stdout, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", ...units], {
          encoding: "utf8",
        });
        const own = (stdout + stderr).split("\n").filter((line) => line.includes("erofs-nbd"));
        return own.join("\n");
      };
      expect(verify()).toBe("");
      // It would have said so.
      writeFileSync(
        at(UNIT),
        `${readFileSync(at(UNIT), "utf8").replace("KillMode=process", "KillMode=gently")}Nonsense=1\n`,
      );
      expect(verify()).toMatch(/KillMode.*gently|gently/);
      writeFiles(prefix, files, false);
    }
  });

  test("systemd-sysusers understands the user, sysv's own words aside", (context) => {
    if (spawnSync("systemd-sysusers", ["--version"]).status !== 0)
      context.skip("systemd-sysusers is not on this machine");
    writeFiles(prefix, FILES, false);
    writeFileSync(at("/etc/passwd"), "root:x:0:0::/root:/bin/sh\n");
    writeFileSync(at("/etc/group"), "root:x:0:\n");
    const { status, stderr } = spawnSync("systemd-sysusers", [`--root=${prefix}`, "erofs-nbd.conf"], {
      encoding: "utf8",
    });
    expect(status, stderr).toBe(0);
    expect(readFileSync(at("/etc/passwd"), "utf8")).toMatch(
      /^erofs-nbd:x:\d+:\d+:Workers of erofs-nbd:\/:.*nologin$/m,
    );
  });
});

describe("the command", () => {
  test("writes below a prefix, says what it did, and is done", async () => {
    const first = await runCli(["install-units", "--prefix", prefix]);
    expect(first, first.stderr).toMatchObject({ code: 0, stderr: "" });
    expect(first.stdout).toContain(`written: ${at(UNIT)}\n`);
    const unit = readFileSync(at(UNIT), "utf8");
    const [, program = ""] = /^ExecStart=(.*)$/m.exec(unit) ?? [];
    expect(program).toBe(`${process.execPath} ${PROGRAM} manager --take-over`);
    const again = await runCli(["install-units", "--prefix", prefix, "--json"]);
    const told = JSON.parse(again.stdout) as { files: Array<{ action: string }>; told: unknown[] };
    expect(new Set(told.files.map(({ action }) => action))).toEqual(new Set(["unchanged"]));
    expect(told).toMatchObject({ prefix, dryRun: false, told: [] });
    const removed = await runCli(["install-units", "--prefix", prefix, "--remove"]);
    expect(removed.stdout).toContain(`removed: ${at(UNIT)}`);
    expect(filesBelow()).toEqual([]);
  });

  test("--remove takes back what was enabled, too: the manager, and every image", async (context) => {
    const systemctl = (...words: string[]) => spawnSync("systemctl", [`--root=${prefix}`, ...words]).status;
    if (systemctl("--version") !== 0) context.skip("systemctl is not on this machine");
    await runCli(["install-units", "--prefix", prefix]);
    const instances = ["erofs-nbd@srv-a.erofs.service", "erofs-nbd@srv-b.erofs.service"];
    expect(systemctl("enable", "erofs-nbd.service", ...instances)).toBe(0);
    expect(filesBelow().filter((path) => path.includes(".wants/"))).toHaveLength(4);
    const removed = await runCli(["install-units", "--prefix", prefix, "--remove"]);
    expect(removed, removed.stderr).toMatchObject({ code: 0, stderr: "" });
    expect(removed.stdout).toContain(`ran: systemctl --root=${prefix} disable erofs-nbd@.service\n`);
    expect(filesBelow()).toEqual([]);
    const again = await runCli(["install-units", "--prefix", prefix, "--remove", "--json"]);
    expect(JSON.parse(again.stdout)).toMatchObject({ told: [] });
  });

  test.each([process.execPath, PROGRAM])(
    "refuses programs that users other than root may change, except with --force: %s",
    async (path) => {
      mkdirSync(dirname(at(path)), { recursive: true });
      writeFileSync(at(path), "");
      chmodSync(dirname(at(path)), 0o777);
      const why = `root would run ${path}, but any user may change ${dirname(at(path))}`;
      for (const words of [[], ["--dry-run"]]) {
        const refused = await runCli(["install-units", "--prefix", prefix, ...words]);
        expect(refused).toMatchObject({ code: 1, stdout: "" });
        expect(refused.stderr).toMatch(/^hint: .*chmod o-w .*--force/m);
        expect(refused.stderr).toContain(`erofs-nbd: cannot install the units: ${why}\n`);
      }
      expect(filesBelow()).toEqual([path]);
      const forced = await runCli(["install-units", "--prefix", prefix, "--force"]);
      expect(forced).toMatchObject({ code: 0, stderr: `note: ${why}\n` });
      expect(filesBelow()).toHaveLength(FILES.length + 1);
      expect(await runCli(["install-units", "--prefix", prefix, "--remove"])).toMatchObject({ code: 0 });
      expect(filesBelow()).toEqual([path]);
    },
  );

  test("refuses where systemd does not run, or the user is not root, and says what would do", async () => {
    const denied = await runCli(["install-units"], { unprivileged: true });
    expect(denied).toMatchObject({ code: 1, stdout: "" });
    expect(denied.stderr).toContain("must be run as root");
    expect(await runCli(["install-units", "--prefix", ""])).toMatchObject({ code: 1 });
    if (existsSync("/run/systemd/system")) return;
    const refused = await runCli(["install-units", "--remove"]);
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    expect(refused.stderr).toContain("cannot remove the units: systemd does not run this machine");
    expect(refused.stderr).toContain("hint: --prefix DIR");
  });
});
