/** run-dir.ts: whose it is, who may enter, and a lock that ends with the process that has it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
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
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { chooseRunDir, lockHolder, openLog, type RunDir } from "../../../src/control/run-dir.ts";
import { prepareRunDir, refuseForeignManager } from "../../../src/control/run-dir-trust.ts";
import { lockRunDir } from "../../../src/control/run-lock.ts";
import { until } from "../../helpers/until.ts";

let base: string;
let runDir: RunDir;

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "erofs-nbd-run-"));
  runDir = chooseRunDir(join(base, "run"));
});
afterEach(() => rmSync(base, { recursive: true }));

const mode = (path: string): number => statSync(path).mode & 0o7777;

describe("chooseRunDir", () => {
  test("option, variable, systemd's, default: in this order", () => {
    const all = { EROFS_NBD_RUN_DIR: "/variable", RUNTIME_DIRECTORY: "/run/one:/run/two" };
    expect(chooseRunDir("/option", all).path).toBe("/option");
    expect(chooseRunDir(undefined, all).path).toBe("/variable");
    expect(chooseRunDir(undefined, { EROFS_NBD_RUN_DIR: "" }).path).toBe("/run/erofs-nbd");
    const ofService = { RUNTIME_DIRECTORY: `${runDir.path}:/run/two` };
    expect(chooseRunDir(undefined, ofService, "manager").path).toBe(runDir.path);
    // That of the service by which a command is run, until a manager has been there.
    expect(chooseRunDir(undefined, ofService).path).toBe("/run/erofs-nbd");
    prepareRunDir(runDir);
    writeFileSync(runDir.lockFile, "");
    expect(chooseRunDir(undefined, ofService).path).toBe(runDir.path);
    expect(chooseRunDir(undefined, { RUNTIME_DIRECTORY: "" }).path).toBe("/run/erofs-nbd");
    expect(chooseRunDir(undefined, {}).controlSocket).toBe("/run/erofs-nbd/control.sock");
  });
});

describe("prepareRunDir", () => {
  test("creates it for its owner only, with any umask, and accepts an existing one", () => {
    const before = process.umask(0);
    try {
      prepareRunDir(runDir);
      prepareRunDir(runDir);
    } finally {
      process.umask(before);
    }
    expect([mode(runDir.path), mode(runDir.devices)]).toEqual([0o700, 0o700]);
  });

  test("takes the rights of others away from a directory of its own", () => {
    mkdirSync(runDir.path, { mode: 0o755 });
    chmodSync(runDir.path, 0o755);
    writeFileSync(runDir.lockFile, "");
    prepareRunDir(runDir);
    expect(mode(runDir.path)).toBe(0o700);
  });

  test("leaves a directory that holds other things as it is, and refuses it", () => {
    mkdirSync(runDir.path);
    chmodSync(runDir.path, 0o1777);
    writeFileSync(join(runDir.path, "somebody's file"), "");
    expect(() => prepareRunDir(runDir)).toThrow(
      expect.objectContaining({
        code: "ERR_RUN_DIR",
        message: `cannot use run directory ${runDir.path}: other users may enter it, and it contains 'somebody's file'`,
      }),
    );
    expect(mode(runDir.path)).toBe(0o1777);
    expect(existsSync(runDir.devices)).toBe(false);
  });

  test("a private directory may hold other things", () => {
    mkdirSync(runDir.path, { mode: 0o700 });
    writeFileSync(join(runDir.path, "a note"), "");
    prepareRunDir(runDir);
    expect(mode(runDir.devices)).toBe(0o700);
  });

  test("a file, a link to a directory, a place that cannot be: one clear line each", () => {
    writeFileSync(runDir.path, "");
    const link = chooseRunDir(join(base, "link"));
    mkdirSync(join(base, "target"), { mode: 0o755 });
    symlinkSync(join(base, "target"), link.path);
    const inFile = chooseRunDir(join(runDir.path, "below a file"));
    for (const bad of [runDir, link, inFile]) {
      expect(() => prepareRunDir(bad)).toThrow(
        expect.objectContaining({
          code: "ERR_RUN_DIR",
          message: expect.stringContaining(`cannot use run directory ${bad.path}: `),
        }),
      );
    }
    expect(mode(join(base, "target"))).toBe(0o755);
  });

  test.runIf(process.getuid?.() === 0)("a directory of another user", () => {
    mkdirSync(runDir.path, { mode: 0o700 });
    chownSync(runDir.path, 65534, 65534);
    expect(() => prepareRunDir(runDir)).toThrow("it belongs to another user");
  });
});

describe("files that other users may have left", () => {
  const refusal = (words: string): Error =>
    expect.objectContaining({
      code: "ERR_RUN_DIR",
      message: expect.stringMatching(new RegExp(`^cannot use run directory .*${words}`)),
    }) as Error;

  test("links in a directory that others could write into: refused, and nothing is written through them", () => {
    for (const name of ["manager.log", "manager.lock", "devices"]) {
      const target = join(base, `target of ${name}`);
      if (name === "devices") mkdirSync(target);
      else writeFileSync(target, "precious");
      mkdirSync(runDir.path);
      chmodSync(runDir.path, 0o777);
      symlinkSync(target, join(runDir.path, name));
      expect(() => prepareRunDir(runDir)).toThrow(refusal(`'${name}' in it was not created by a manager`));
      expect(mode(runDir.path)).toBe(0o777);
      if (name === "devices") expect(readdirSync(target)).toEqual([]);
      else expect(readFileSync(target, "utf8")).toBe("precious");
      rmSync(runDir.path, { recursive: true });
    }
  });

  test("links in a directory of our own are not followed either", () => {
    prepareRunDir(runDir);
    const target = join(base, "target");
    writeFileSync(target, "precious");
    symlinkSync(target, runDir.logFile);
    symlinkSync(target, runDir.lockFile);
    expect(() => openLog(runDir)).toThrow(refusal("a symbolic link is in the way"));
    expect(() => lockRunDir(runDir)).toThrow(refusal("a symbolic link is in the way"));
    expect(readFileSync(target, "utf8")).toBe("precious");
    rmSync(runDir.logFile);
    rmSync(runDir.lockFile);
    rmSync(runDir.devices, { recursive: true });
    symlinkSync(base, runDir.devices);
    expect(() => prepareRunDir(runDir)).toThrow(refusal("'devices' in it was not created by a manager"));
  });

  test("a path that any user may change is refused, but not a sticky directory", () => {
    const open = join(base, "open");
    mkdirSync(open);
    chmodSync(open, 0o777);
    const inside = chooseRunDir(join(open, "run"));
    expect(() => prepareRunDir(inside)).toThrow(refusal(`any user may write to ${open} above it`));
    expect(existsSync(inside.path)).toBe(false);
    chmodSync(open, 0o1777);
    prepareRunDir(inside);
    expect(mode(inside.path)).toBe(0o700);
  });

  test.runIf(process.getuid?.() === 0)("a path that another group may change, or a link into one", () => {
    const groups = join(base, "groups");
    mkdirSync(groups);
    chownSync(groups, 0, 65534);
    chmodSync(groups, 0o775);
    const expected = refusal(`group 65534 may write to ${groups} above it`);
    expect(() => prepareRunDir(chooseRunDir(join(groups, "run")))).toThrow(expected);
    mkdirSync(join(groups, "ours"), { mode: 0o700 });
    symlinkSync("groups/ours", join(base, "link"));
    const overLink = chooseRunDir(join(base, "link", "run"));
    expect(() => prepareRunDir(overLink)).toThrow(expected);
    expect(() => refuseForeignManager(overLink)).toThrow(expected);
    chmodSync(groups, 0o1775);
    prepareRunDir(overLink);
    symlinkSync("loop", join(base, "loop"));
    expect(() => prepareRunDir(chooseRunDir(join(base, "loop", "run")))).toThrow(
      refusal("its path has too many symbolic links"),
    );
  });

  test.runIf(process.getuid?.() === 0)("a directory or link of another user in its path is refused", () => {
    const theirs = join(base, "theirs");
    mkdirSync(theirs);
    chownSync(theirs, 65534, 65534);
    const expected = refusal("theirs above it belongs to another user");
    expect(() => prepareRunDir(chooseRunDir(join(theirs, "run")))).toThrow(expected);
    rmSync(theirs, { recursive: true });
    mkdirSync(join(base, "ours"), { mode: 0o700 });
    symlinkSync(join(base, "ours"), theirs);
    lchownSync(theirs, 65534, 65534);
    expect(() => prepareRunDir(chooseRunDir(join(theirs, "run")))).toThrow(expected);
    expect(existsSync(join(base, "ours", "run"))).toBe(false);
    prepareRunDir(runDir);
    writeFileSync(join(runDir.path, "manager.log"), "");
    chownSync(join(runDir.path, "manager.log"), 65534, 65534);
    expect(() => prepareRunDir(runDir)).toThrow(refusal("'manager.log' in it was not created by a manager"));
  });
});

describe("the lock", () => {
  beforeEach(() => prepareRunDir(runDir));

  test("held once; freed by release, and then by its next holder", () => {
    const lock = lockRunDir(runDir);
    expect(lockRunDir(runDir)).toEqual({ heldBy: process.pid });
    expect(lockHolder(runDir)).toBe(process.pid);
    if (!("release" in lock)) throw new Error("it was not given");
    lock.release();
    const next = lockRunDir(runDir);
    expect(next).toHaveProperty("release");
    if ("release" in next) next.release();
  });

  test("a process that is killed frees it, and its children do not keep it", async () => {
    // flock(1) opens the file and holds the lock while its command runs; the pid is what a manager writes.
    const holder = spawn("flock", ["-n", "-o", runDir.lockFile, "sh", "-c", "echo held; exec sleep 1000"], {
      stdio: ["ignore", "pipe", "ignore"],
      detached: true,
    });
    await once(holder.stdout, "data");
    writeFileSync(runDir.lockFile, `${holder.pid}\n`);
    expect(lockRunDir(runDir)).toEqual({ heldBy: holder.pid });
    expect(lockHolder(runDir)).toBe(holder.pid);
    const exited = once(holder, "exit");
    holder.kill("SIGKILL");
    await exited;
    const lock = lockRunDir(runDir);
    expect(lock).toHaveProperty("release");
    if ("release" in lock) lock.release();
    process.kill(-(holder.pid ?? 0), "SIGKILL");
  });

  test("a child process does not inherit it", async () => {
    const lock = lockRunDir(runDir);
    const child = spawn("sleep", ["1000"], { stdio: "ignore" });
    await once(child, "spawn");
    if ("release" in lock) lock.release();
    const again = lockRunDir(runDir);
    expect(again).toHaveProperty("release");
    if ("release" in again) again.release();
    child.kill("SIGKILL");
    await once(child, "exit");
  });

  test("no holder is returned if the pid is of no process, or missing", async () => {
    const child = spawn("true", { stdio: "ignore" });
    await once(child, "exit");
    await until("its end", () => !existsSync(`/proc/${child.pid}`));
    for (const text of [`${child.pid}\n`, "", "nonsense", "-5"]) {
      writeFileSync(runDir.lockFile, text);
      expect(lockHolder(runDir)).toBeUndefined();
    }
    rmSync(runDir.lockFile);
    expect(lockHolder(runDir)).toBeUndefined();
  });
});
