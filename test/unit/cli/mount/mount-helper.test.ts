/**
 * The mount helper as a process, against a manager and a mount(8) that the test plays: what it asks, what it hands on,
 * and with which of mount(8)'s codes it ends. With the real mount(8) it is tested on real kernels.
 */
import { existsSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";
import { until } from "../../../helpers/until.ts";
import { Fault } from "../fake-manager.ts";
import { type CliOptions, type CliResult, MOUNT_HELPER, runCli, startCli } from "../run-cli.ts";
import { at, environment, logged, useMountRig, withManager, writeProgram } from "./mount-rig.ts";

useMountRig("mnt point");
beforeEach(() => {
  writeFileSync(at("raw"), "no file system ".repeat(1000));
  program("umount", "");
});

/** A program in PATH that notes its call, one word a line. */
function program(name: string, script: string): void {
  writeProgram(name, `printf '%s\\n' "${name}" "$@" >> "$LOG"\n${script}`);
}

/** The environment of the helper, with the manager in that run directory. */
const inRunDir = (runDir: string): NodeJS.ProcessEnv => ({ ...environment(), EROFS_NBD_RUN_DIR: at(runDir) });

function helper(words: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return runCli(words, {
    program: MOUNT_HELPER,
    env: inRunDir("run"),
    ...options,
  });
}

const mount = (...words: string[]): Promise<CliResult> => helper([at("image"), at("mnt point"), ...words]);
const log = (): string[] => (logged() === "" ? [] : logged().trimEnd().split("\n"));

describe("a mount", () => {
  test("options of erofs-nbd go to the manager, others to mount(8), which gets -i and -n", async () => {
    program("mount", "");
    const fake = await withManager();
    const options = "rw,_netdev,nofail,nbd.connections=2,nbd.dead-timeout=60,noatime,x-a=b";
    expect(await mount("-o", options)).toEqual({ code: 0, stdout: "", stderr: "" });
    const mountOptions = "ro,_netdev,noatime,x-a=b";
    expect(log()).toEqual([
      "mount",
      "-i",
      "-t",
      "erofs",
      "-n",
      "-o",
      mountOptions,
      at("nbd0"),
      at("mnt point"),
    ]);
    expect(fake.requests).toEqual([
      {
        method: "attach",
        params: expect.objectContaining({
          image: at("image"),
          forMount: true,
          connections: 2,
          deadTimeoutSeconds: 60,
        }),
      },
      { method: "mounted", params: { index: 0 } },
    ]);
  });

  test("-N goes on to mount(8); -v tells", async () => {
    program("mount", "");
    await withManager();
    const { code, stdout, stderr } = await mount("-nv", "-N", String(process.pid));
    expect({ code, stdout }).toEqual({ code: 0, stdout: "" });
    expect(stderr).toMatch(/^note: .*image is mounted at .*mnt point from .*nbd0$/m);
    expect(log().slice(log().indexOf("-N"))).toEqual([
      "-N",
      String(process.pid),
      "-o",
      "ro",
      at("nbd0"),
      at("mnt point"),
    ]);
  });

  test("-f checks everything and does nothing", async () => {
    program("mount", "");
    expect(await mount("-f")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await helper([at("raw"), at("mnt point"), "-f"])).toMatchObject({ code: 32, stdout: "" });
    expect(await helper([at("image"), at("nowhere"), "-f"])).toMatchObject({ code: 32, stdout: "" });
    expect(log()).toEqual([]);
    expect(existsSync(at("run"))).toBe(false);
  });

  test("a missing image fails, but not with nofail; an image that is none fails all the same", async () => {
    program("mount", "");
    const missing = [at("gone"), at("mnt point")];
    expect(await helper(missing)).toMatchObject({ code: 32, stderr: expect.stringMatching(/no such file/) });
    expect(await helper([...missing, "-o", "nofail"])).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await helper([at("raw"), at("mnt point"), "-o", "nofail"])).toMatchObject({ code: 32 });
    expect(existsSync(at("run"))).toBe(false);
  });

  test("-s ignores unknown options", async () => {
    program("mount", "");
    await withManager();
    const { code, stderr } = await mount("-sv", "-o", "no-such,nbd.conns=2,noatime");
    expect(code).toBe(0);
    expect(stderr).toContain("note: unknown options are ignored: no-such, nbd.conns=2\n");
    expect(log()).toContain("ro,noatime");
  });

  test("waits for another mount at the same directory under any name, but not for a killed one", async () => {
    program("mount", 'mkfifo "$LOG.go"; read -r _ < "$LOG.go"');
    await withManager();
    const first = startCli([at("image"), at("mnt point")], { program: MOUNT_HELPER, env: inRunDir("run") });
    await until("it has begun", () => existsSync(at("log.go")));
    program("mount", "");
    symlinkSync(at("mnt point"), at("link"));
    const words = [at("image"), at("link"), "-v"];
    const second = startCli(words, { program: MOUNT_HELPER, env: inRunDir("run") });
    await second.until("stderr", /^note: waiting for another mount at .*link$/m);
    first.child.kill("SIGKILL");
    expect(await second.ended).toMatchObject({ code: 0 });
    expect(log().at(-1)).toBe(at("link"));
    // The program that the first one started must be killed here.
    writeFileSync(at("log.go"), "go\n");
    await first.ended;
  });

  test("nbd.run-dir names the manager", async () => {
    program("mount", "");
    const fake = await withManager();
    const words = [at("image"), at("mnt point"), "-o", `nbd.run-dir=${at("run")}`];
    expect(await helper(words, { env: inRunDir("other") })).toMatchObject({
      code: 0,
    });
    expect(fake.requests).toHaveLength(2);
    expect(existsSync(at("other"))).toBe(false);
  });
});

describe("exit codes of mount(8)", () => {
  test("1: a wrong call, a missing right", async () => {
    expect(await helper([])).toMatchObject({ code: 1, stdout: "" });
    expect(await mount("-o", "nbd.conns=2")).toMatchObject({ code: 1, stdout: "" });
    const denied = await helper([at("image"), at("mnt point")], { unprivileged: true });
    expect(denied).toMatchObject({ code: 1, stderr: expect.stringMatching(/must be run as root/) });
  });

  test("2: the system", async () => {
    program("mount", "");
    await withManager({
      attach: async () => {
        throw new Fault({ code: "ERR_NO_NBD", message: "cannot attach: no nbd driver", exitCode: 2 });
      },
    });
    expect(await mount()).toEqual({
      code: 2,
      stdout: "",
      stderr: "erofs-nbd: cannot attach: no nbd driver\n",
    });
  });

  test("32: refused by mount(8), in its words, and undone", async () => {
    program("mount", 'echo "mount: /mnt: wrong fs type" >&2; exit 32');
    const fake = await withManager();
    expect(await mount()).toMatchObject({
      code: 32,
      stderr: expect.stringMatching(/: \/mnt: wrong fs type\n/),
    });
    expect(fake.requests.map(({ method }) => method)).toEqual(["attach", "detach"]);
  });

  test("32: nothing to remount, a namespace that is not there", async () => {
    expect(await mount("-o", "remount,noatime")).toMatchObject({
      code: 32,
      stderr: expect.stringMatching(/cannot remount .*: no nbd device is mounted there/),
    });
    expect(await mount("-N", "999999999")).toMatchObject({
      code: 32,
      stderr: expect.stringMatching(/namespace 999999999: there is no \/proc/),
    });
    expect(log()).toEqual([]);
  });
});

test("help and version", async () => {
  expect(await helper(["--help"])).toMatchObject({
    code: 0,
    stderr: "",
    stdout: expect.stringMatching(/^Usage: mount/),
  });
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  expect(await helper(["-V"])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
});
