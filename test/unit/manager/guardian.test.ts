/** guardian.ts: it starts a command when its manager dies, and only then. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { chooseRunDir, type RunDir } from "../../../src/control/run-dir.ts";
import { Guardian, revivalDelayMs } from "../../../src/manager/guardian.ts";
import { until } from "../../helpers/until.ts";

const BUILT = new URL("../../../dist/src/manager/guardian.js", import.meta.url).href;

let runDir: RunDir;
let started: string;
/** Records that it was started, with the number of managers that died young before. */
let command: string[];
const children: ChildProcess[] = [];

beforeEach(() => {
  runDir = chooseRunDir(mkdtempSync(join(tmpdir(), "erofs-nbd-guardian-")));
  mkdirSync(runDir.path, { recursive: true });
  started = join(runDir.path, "started");
  command = ["/bin/sh", "-c", `echo "$EROFS_NBD_REVIVALS" > ${started}.new && mv ${started}.new ${started}`];
});

afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  rmSync(runDir.path, { recursive: true });
});

/** The code of a manager that has a guardian and prints both pids. */
function managerProgram(): string {
  return `
    const { Guardian } = await import(${JSON.stringify(BUILT)});
    const guardian = new Guardian(${JSON.stringify({ runDir, auto: true, command })});
    guardian.keep(true);
    console.log(guardian.pid, process.pid);
    process.stdin.once("data", () => { guardian.retire(); guardian.keep(true); });
    setInterval(() => {}, 1000);`;
}

/** A process that has a guardian; resolves with it and the guardian's pid. */
async function guarded(env: NodeJS.ProcessEnv = {}): Promise<{ manager: ChildProcess; guardianPid: number }> {
  const manager = spawn(process.execPath, ["--input-type=module", "-e", managerProgram()], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  children.push(manager);
  const [line] = (await once(manager.stdout as NodeJS.ReadableStream, "data")) as [Buffer];
  return { manager, guardianPid: Number.parseInt(line.toString(), 10) };
}

const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`);

describe("a guardian", () => {
  test("starts the command when its manager is killed", async () => {
    const { manager } = await guarded();
    manager.kill("SIGKILL");
    await until("the successor", () => existsSync(started));
    expect(readFileSync(started, "utf8")).toBe("1\n");
  });

  test("counts the managers that have died young, for the next delay", async () => {
    const { manager } = await guarded({ EROFS_NBD_REVIVALS: "1" });
    manager.kill("SIGKILL");
    await until("the successor", () => existsSync(started));
    expect(readFileSync(started, "utf8")).toBe("2\n");
  });

  test("ends when its manager ends by plan, and starts nothing", async () => {
    const { manager, guardianPid } = await guarded();
    manager.stdin?.write("go\n");
    await until("its end", () => !isAlive(guardianPid));
    manager.kill("SIGKILL");
    await once(manager, "exit");
    expect(existsSync(started)).toBe(false);
  });

  test("starts nothing when another manager has the run directory by then", async () => {
    const { manager, guardianPid } = await guarded();
    writeFileSync(runDir.lockFile, `${process.pid}\n`);
    manager.kill("SIGKILL");
    await until("its end", () => !isAlive(guardianPid));
    expect(existsSync(started)).toBe(false);
  });

  test("ignores its manager's own pid in the lock file, even if a process has it", async () => {
    // Its parent does not reap it, so that kill -0 succeeds for the pid as it would for a reused one.
    const words = [process.execPath, "--input-type=module", "-e", managerProgram()];
    const parent = spawn("/bin/sh", ["-c", '"$@" & exec sleep 600', "sh", ...words], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    children.push(parent);
    const [line] = (await once(parent.stdout as NodeJS.ReadableStream, "data")) as [Buffer];
    const managerPid = Number(line.toString().split(" ")[1]);
    writeFileSync(runDir.lockFile, `${managerPid}\n`);
    process.kill(managerPid, "SIGKILL");
    await until("the successor", () => existsSync(started));
    expect(isAlive(managerPid)).toBe(true);
  });

  test("is replaced when it dies; there is none without devices, and one at most", async () => {
    const guardian = new Guardian({ runDir, auto: true, command });
    guardian.keep(true);
    const first = guardian.pid ?? -1;
    guardian.keep(true);
    expect(guardian.pid).toBe(first);
    process.kill(first, "SIGKILL");
    await until("its end", () => guardian.pid === undefined);
    guardian.keep(true);
    const second = guardian.pid ?? -1;
    expect(second).not.toBe(first);
    guardian.keep(false);
    expect(guardian.pid).toBeUndefined();
    await until("its end", () => !isAlive(second));
    expect(existsSync(started)).toBe(false);
  });
});

test("each manager in a row that dies young delays the next one more, up to 30 s", () => {
  expect([0, 1, 2, 3, 4, 5, 1000].map((revivals) => revivalDelayMs(true, revivals))).toEqual([
    100, 400, 1600, 6400, 25_600, 30_000, 30_000,
  ]);
  expect(revivalDelayMs(false, 0)).toBe(5000);
});
