/**
 * The built command line without a manager: help, version, wrong usage and bad input, each with its exit code, one
 * clear line, and neither a run directory nor a process left behind.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { headWith } from "../../helpers/images/superblock-bytes.ts";
import { type CliResult, runCli, startCli } from "./run-cli.ts";

const COMMANDS = ["attach", "detach", "mount", "umount", "status", "serve", "manager", "chaos", "doctor"];
let directory = "";
let runDir = "";
const at = (name: string): string => join(directory, name);
const run = (...args: string[]): Promise<CliResult> => runCli(["--run-dir", runDir, ...args]);

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-usage-"));
  chmodSync(directory, 0o755);
  runDir = at("run");
  mkdirSync(at("folder"));
  writeFileSync(at("empty"), "");
  writeFileSync(at("truncated"), headWith({ blocksLow: 100 }, 8192));
  writeFileSync(at("raw"), "not a file system".repeat(100));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** One error line, perhaps a hint, nothing on stdout, and no manager was started. */
function expectRefusal(result: CliResult, code: number, message: RegExp): void {
  expect(result, result.stderr).toMatchObject({ code, stdout: "" });
  const [first = "", second = "hint: ", ...more] = result.stderr.trimEnd().split("\n");
  expect(first).toMatch(/^erofs-nbd: (cannot|invalid|unknown|missing|too many|must be|option) ?/);
  expect(first).toMatch(message);
  expect(second).toMatch(/^hint: /);
  expect(more).toEqual([]);
  expect(existsSync(runDir)).toBe(false);
}

describe("help and version", () => {
  test("--version prints the package's version", async () => {
    const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
    expect(await run("--version")).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  });

  test("--help lists every command on stdout", async () => {
    const { code, stdout, stderr } = await run("--help");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    for (const name of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${name} `, "m"));
  });

  test.each(COMMANDS)("%s --help has its own options, an example and the global options", async (name) => {
    const { code, stdout, stderr } = await run(name, "--help");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(new RegExp(`^Usage: erofs-nbd ${name} `));
    expect(stdout).toMatch(/^Examples?:\n {2}.*erofs-nbd /m);
    expect(stdout).toMatch(/^ {2}--run-dir /m);
    expect((await run("help", name)).stdout).toBe(stdout);
  });

  test("no command at all prints the help on stderr and ends with 1", async () => {
    const { code, stdout, stderr } = await run();
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^Usage: erofs-nbd /);
  });
});

describe("wrong usage", () => {
  test.each([
    [["bogus"], /unknown command 'bogus'/],
    [["attach"], /missing required argument 'IMAGE'/],
    [["attach", "a", "b"], /too many arguments/],
    [["attach", "--foo", "a"], /unknown option '--foo'/],
    [["attach", "--connections"], /argument missing/],
    [["attach", "--netlink", "--ioctl", "a"], /options --netlink and --ioctl are mutually exclusive/],
    [["attach", "--ioctl", "--connections", "2", "a"], /--connections '2': expected 1 with --ioctl/],
    [["attach", "--connections", "12abc", "a"], /--connections '12abc': expected an integer from 1 to 64/],
    [["attach", "--timeout", "0", "a"], /--timeout '0': expected an integer .* or never/],
    [["attach", "--dead-timeout", "-1", "a"], /--dead-timeout '-1': expected an integer from 0/],
    [["attach", "--io-timeout", "1.5", "a"], /--io-timeout '1\.5': expected an integer from 1/],
    [["attach", "--block-size", "1000", "a"], /--block-size '1000': expected a power of two/],
    [["attach", "--device", "/dev/sda", "a"], /--device '\/dev\/sda': expected an nbd device/],
    [["detach"], /name a target, or --all/],
    [["detach", "--all", "nbd0"], /--all and targets are mutually exclusive/],
    [["serve", "a"], /name one of --socket PATH and --listen HOST:PORT/],
    [["serve", "--socket", "/x", "--listen", "h", "a"], /name one of --socket/],
    [["serve", "--listen", "::1", "a"], /--listen '::1': expected HOST/],
    [["umount"], /missing required argument 'DIR'/],
    [["attach", ""], /cannot open an image: its path is empty/],
    [["mount", "", "/mnt"], /cannot open an image: its path is empty/],
    [["mount", "a", ""], /invalid DIR '': expected a path/],
    [["umount", ""], /invalid DIR '': expected a path/],
    [["serve", "--socket", "/x", ""], /cannot open an image: its path is empty/],
    [["serve", "--socket", "", "a"], /invalid --socket '': expected a path/],
    [["detach", ""], /invalid target '': expected a device, an image or a mount point/],
    [["status", ""], /invalid target '': expected a device, an image or a mount point/],
    [["chaos", ""], /invalid target '': expected a device, an image or a mount point/],
    [["--run-dir", `/${"x".repeat(120)}`, "status"], /socket's path is longer than 107 bytes/],
  ])("%j", async (args, message) => {
    expectRefusal(await run(...args), 1, message);
  });
});

describe("bad images", () => {
  test.each([
    ["nowhere", /there is no such file/],
    ["folder", /it is a directory/],
    ["empty", /it is empty/],
    ["truncated", /truncated, its superblock promises 409600 bytes .* and it has 8192/],
  ])("%s", async (name, message) => {
    expectRefusal(await run("attach", at(name)), 1, message);
    expectRefusal(await run("mount", at(name), directory), 1, message);
    expectRefusal(await run("serve", "--socket", at("socket"), at(name)), 1, message);
    expect(existsSync(at("socket"))).toBe(false);
  });

  test("mount requires EROFS and an existing directory", async () => {
    expectRefusal(await run("mount", at("raw"), directory), 1, /not an EROFS image/);
    expectRefusal(await run("mount", at("raw"), at("nowhere")), 1, /there is no directory/);
    expectRefusal(await run("mount", at("raw"), at("empty")), 1, /is not a directory/);
  });
});

describe("without a manager", () => {
  test("nothing is attached, and no manager is started to find out", async () => {
    expect(await run("status")).toEqual({ code: 0, stdout: "", stderr: "note: no devices attached\n" });
    expect(await run("status", "--json")).toEqual({ code: 0, stdout: "[]\n", stderr: "" });
    expectRefusal(await run("status", "nbd0"), 3, /nbd0: it is not attached/);
    expectRefusal(await run("detach", "nbd0"), 3, /nbd0: it is not attached/);
    expectRefusal(await run("umount", directory), 3, /no nbd device is mounted there/);
    expect(await run("detach", "--all")).toMatchObject({ code: 0, stdout: "" });
    expect(existsSync(runDir)).toBe(false);
  });

  test("commands that manage devices or units must be run as root, and say why", async () => {
    for (const [reason, ...args] of [
      ["the kernel requires CAP_SYS_ADMIN to attach", "attach", at("raw")],
      ["the manager is root's", "detach", "nbd0"],
      ["the kernel requires CAP_SYS_ADMIN to attach", "mount", at("raw"), directory],
      ["unmounting is left to root", "umount", directory],
      ["the manager is root's", "upgrade"],
      ["it writes files of the system", "install-units"],
      ["the kernel requires CAP_SYS_ADMIN to attach", "manager"],
    ] as const) {
      const result = await runCli(["--run-dir", runDir, ...args], { unprivileged: true });
      expectRefusal(result, 1, /must be run as root/);
      expect(result.stderr).toContain(`hint: run it with sudo; ${reason}`);
    }
  });

  test("doctor checks the machine, changes nothing and says how it went by its exit code", async () => {
    const { code, stdout, stderr } = await run("doctor", "--json");
    expect(stderr).toBe("");
    const report = JSON.parse(stdout) as { ok: boolean; checks: Array<Record<string, string | null>> };
    expect(code).toBe(report.ok ? 0 : 2);
    expect(report.ok).toBe(report.checks.every(({ state }) => state !== "fail"));
    for (const check of report.checks) {
      expect(Object.keys(check)).toEqual(["name", "state", "detail", "hint"]);
      expect(check["state"]).toMatch(/^(ok|warn|fail)$/);
      expect(check["hint"] === null, JSON.stringify(check)).toBe(check["state"] === "ok");
    }
    const names = report.checks.map(({ name }) => name);
    for (const name of ["koffi", "permission", "nbd driver", "nbd netlink", "hung tasks", "run directory"])
      expect(names).toContain(name);
    expect(report.checks.find(({ name }) => name === "node")).toMatchObject({ state: "ok" });
    expect(report.checks.find(({ name }) => name === "manager")).toMatchObject({ state: "ok" });
    expect(existsSync(runDir)).toBe(false);
    expect(
      (await run("doctor")).stdout.split("\n").filter((line) => /^(ok|warn|fail) /.test(line)),
    ).toHaveLength(report.checks.length);
  });

  test("status --watch waits for a manager and ends with 0 at a signal", async () => {
    const watching = startCli(["--run-dir", runDir, "status", "--watch"]);
    await watching.until("stderr", /waiting for a manager/);
    watching.child.kill("SIGINT");
    expect(await watching.ended).toMatchObject({ code: 0, stdout: "" });
  });
});
