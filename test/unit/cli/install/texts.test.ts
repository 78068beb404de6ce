/** install-units: what its files say, and what systemd itself says of the units. */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { writeFiles } from "../../../../src/cli/install/installation.ts";
import { serviceFiles, unitWord } from "../../../../src/cli/install/service-files.ts";
import { at, FILES, INSTALLATION, prefix, UNIT, usePrefix } from "./prefix.ts";

usePrefix();

describe("texts", () => {
  const text = (path: string, more = {}): string =>
    serviceFiles({ ...INSTALLATION, ...more }).find((file) => file.path === path)?.text ?? "";

  test("words of a unit have blanks, quotes, percent and dollar signs quoted for systemd", () => {
    expect(unitWord("/usr/bin/node")).toBe("/usr/bin/node");
    expect(unitWord("/opt/a b")).toBe('"/opt/a b"');
    expect(unitWord('/opt/100%/"$x"\\')).toBe('"/opt/100%%/\\"$$x\\"\\\\"');
    expect(unitWord("/opt/100%")).toBe("/opt/100%%");
  });

  test("the mount helper runs the chosen Node, at any path, and passes its arguments on", () => {
    const node = at('/a node\'s "$(path)"');
    writeFileSync(node, '#!/bin/sh\nprintf "<%s>" "$@"\n', { mode: 0o755 });
    const helper = at("/helper");
    writeFileSync(helper, text("/usr/sbin/mount.erofs.nbd", { nodePath: node, programDirectory: "/p q" }), {
      mode: 0o755,
    });
    const { stdout } = spawnSync(helper, ["/an image", "/mnt", "-o", "ro"], { encoding: "utf8" });
    expect(stdout).toBe("</p q/mount-helper.cjs></an image></mnt><-o><ro>");
  });

  test("the unit logs lines without a priority as errors: they are the last output of a process", () => {
    expect(text(UNIT)).toMatch(/^\[Service\][^[]*\nSyslogLevel=err\n/m);
  });

  test("the unit lets images be found again by their file handles", () => {
    expect(text(UNIT)).toMatch(
      /^SystemCallFilter=@system-service$[^[]*^SystemCallFilter=open_by_handle_at$/m,
    );
    expect(text(UNIT)).toMatch(/^CapabilityBoundingSet=.*\bCAP_DAC_READ_SEARCH\b/m);
  });

  test("an image's unit detaches the device that it attached, by identifier, or by path if there is none", () => {
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

  test("directives that an older systemd does not know are not written", () => {
    expect(text(UNIT)).not.toContain("SurviveFinalKillSignal");
    // It is a directive of [Unit]: elsewhere systemd would ignore it.
    expect(text(UNIT, { systemdVersion: 255 })).toMatch(/^SurviveFinalKillSignal=yes\n\n\[Service\]$/m);
  });

  test("systemd-analyze finds no fault in the units, with blanks in paths or without", (context) => {
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

  test("systemd-sysusers creates the user", (context) => {
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
