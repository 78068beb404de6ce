/** install-units, the command, below a prefix. Nothing here touches the machine's own units. */
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { runCli } from "../run-cli.ts";
import { at, FILES, filesBelow, PROGRAM, prefix, UNIT, usePrefix } from "./prefix.ts";

usePrefix();

describe("the command", () => {
  test("writes below a prefix and reports what it did", async () => {
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

  test("--remove disables what was enabled, too: the manager, and every image", async (context) => {
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

  test("refuses if systemd does not run or the user is not root, with a hint", async () => {
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
