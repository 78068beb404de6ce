/**
 * start-manager.ts: starting a manager where none runs, for as long as it gets on, and not leaving one behind for
 * nothing.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ControlClient } from "../../../../src/control/client.ts";
import {
  connectOrStart,
  type StartOptions,
  untilAnswered,
} from "../../../../src/control/reach/start-manager.ts";
import { chooseRunDir, lockHolder, type RunDir } from "../../../../src/control/run-dir.ts";
import { prepareRunDir } from "../../../../src/control/run-dir-trust.ts";
import { processStat } from "../../../../src/sys/process-stat.ts";
import { until } from "../../../helpers/until.ts";

const STAND_IN = fileURLToPath(new URL("../../manager/stand-in-manager.mjs", import.meta.url));

let base: string;
let runDir: RunDir;
const closing: Array<() => void> = [];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "erofs-nbd-start-"));
  runDir = chooseRunDir(join(base, "run"));
});
afterEach(() => {
  for (const close of closing.splice(0).reverse()) close();
  rmSync(base, { recursive: true, force: true });
});

async function start(options: StartOptions = {}): Promise<{ pid: number; client: ControlClient }> {
  const client = await connectOrStart(runDir, { program: STAND_IN, ...options });
  closing.push(() => client.close());
  const { pid } = await client.request("hello", {});
  return { pid, client };
}

function behave(behaviour: object): void {
  writeFileSync(join(base, "behaviour.json"), JSON.stringify(behaviour));
}

function end(pid: number): void {
  closing.push(() => {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // ESRCH: it has ended already.
    }
  });
}

/** The kernel's letter for it: T is stopped, Z is dead and not yet waited for; undefined: gone. */
const stateOf = (pid: number | undefined): string | undefined => processStat(pid ?? -1)?.state;

describe("connectOrStart", () => {
  test("none runs: one is started, outlives us, and is found the next time", async () => {
    const { pid } = await start();
    end(pid);
    expect(pid).not.toBe(process.pid);
    expect((await start()).pid).toBe(pid);
    // A session of its own: neither Ctrl-C nor a closed terminal reaches it.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    expect(Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[3])).toBe(pid);
  });

  test("two start one at the same time, and the winner is slow: both get the same", async () => {
    behave({ slowMs: 2000 });
    const [one, two] = await Promise.all([start(), start()]);
    end(one.pid);
    expect(one.pid).toBe(two.pid);
    await until("the other has said so", () => readFileSync(runDir.logFile, "utf8").includes("runs there"));
  });

  test("one that has the directory may be long about what it finds there", async () => {
    prepareRunDir(runDir);
    behave({ slowMs: 3000 });
    const slow = spawn(process.execPath, [STAND_IN, "manager", "--run-dir", runDir.path], {
      stdio: "ignore",
    });
    await until("its lock", () => lockHolder(runDir) === slow.pid);
    const client = await connectOrStart(runDir, { program: STAND_IN });
    expect((await client.request("hello", {})).pid).toBe(slow.pid);
    client.close();
    end(slow.pid ?? -1);
  });

  test("a manager that was just ending still has the directory: another is started when it has gone", async () => {
    prepareRunDir(runDir);
    const ending = spawn(process.execPath, [STAND_IN, "manager", "--run-dir", runDir.path, "--stay"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    await once(ending.stdout, "data");
    // Its socket is gone, its lock is not.
    rmSync(runDir.controlSocket);
    const started = start();
    await until(
      "one has found the directory taken",
      () => existsSync(runDir.logFile) && readFileSync(runDir.logFile, "utf8").includes("runs there"),
    );
    ending.kill("SIGKILL");
    const { pid } = await started;
    end(pid);
    expect(pid).not.toBe(ending.pid);
  });

  test("one that dies: its last words, at once; words of earlier days are not taken for them", async () => {
    prepareRunDir(runDir);
    writeFileSync(runDir.logFile, "erofs-nbd: something old\n");
    behave({ lastWords: "cannot talk to the kernel: EPERM" });
    await expect(start()).rejects.toMatchObject({
      code: "ERR_CONTROL",
      message: "cannot start the manager: cannot talk to the kernel: EPERM",
      hint: `its log is ${runDir.logFile}`,
    });
    const words = readFileSync(runDir.logFile, "utf8").split("\n");
    expect(words.filter((line) => line.includes("EPERM"))).toHaveLength(1);
  });

  test("one that has left because it was asked too late: another is started", async () => {
    behave({ leaves: true });
    const { pid } = await start();
    end(pid);
    expect(existsSync(join(base, "behaviour.json.left"))).toBe(true);
  });

  test("a run directory that cannot be made: told, nothing is started", async () => {
    writeFileSync(runDir.path, "a file");
    await expect(start()).rejects.toMatchObject({ code: "ERR_RUN_DIR" });
    expect(readFileSync(runDir.path, "utf8")).toBe("a file");
  });

  test("a log that cannot be opened: told in the same way", async () => {
    prepareRunDir(runDir);

    mkdirSync(runDir.logFile);
    await expect(start()).rejects.toMatchObject({ code: "ERR_RUN_DIR" });
  });

  test("one that is long about its start is waited for while it gets on, and that is said once", async () => {
    behave({ slowMs: 4000 });
    const told: string[] = [];
    const { pid } = await start({ silenceMs: 1500, noticeMs: 200, waiting: (text) => told.push(text) });
    end(pid);
    expect(told).toEqual([expect.stringContaining(`waiting for the manager (pid ${pid}) to start`)]);
  });

  test("one that hangs is told from one that is slow, and ended: it would keep the directory", async () => {
    behave({ stopped: "starting" });
    await expect(start({ silenceMs: 300 })).rejects.toMatchObject({
      code: "ERR_CONTROL",
      message: expect.stringMatching(/^cannot start the manager: its process \d+ is stopped, and was ended$/),
      hint: `its log is ${runDir.logFile}`,
    });
    await until("its end", () => lockHolder(runDir) === undefined);
  });

  test("one that hangs and that another has started is left alone, with what to do about it", async () => {
    prepareRunDir(runDir);
    behave({ stopped: "starting" });
    const hung = spawn(process.execPath, [STAND_IN, "manager", "--run-dir", runDir.path], {
      stdio: "ignore",
    });
    end(hung.pid ?? -1);
    await until("its stop", () => stateOf(hung.pid) === "T");
    await expect(start({ silenceMs: 300 })).rejects.toMatchObject({
      code: "ERR_CONTROL",
      message: `cannot talk to the manager: its process ${hung.pid} is stopped`,
      hint: expect.stringContaining(`kill -CONT ${hung.pid}`),
    });
    expect(stateOf(hung.pid)).toBe("T");
  });

  test("interrupted: the manager that was started for nothing is ended", async () => {
    behave({ slowMs: 60_000 });
    const stop = new AbortController();
    const starting = start({ signal: stop.signal });
    await until("its lock", () => lockHolder(runDir) !== undefined);
    stop.abort();
    await expect(starting).rejects.toMatchObject({ code: "ERR_INTERRUPTED" });
    await until("its end", () => lockHolder(runDir) === undefined);
  });

  test("interrupted while a dead manager's devices need the one that was started: it goes on", async () => {
    behave({ slowMs: 60_000 });
    prepareRunDir(runDir);
    writeFileSync(join(runDir.devices, "one.json"), "{}");
    const stop = new AbortController();
    const starting = start({ signal: stop.signal });
    await until("its lock", () => lockHolder(runDir) !== undefined);
    const pid = lockHolder(runDir) ?? -1;
    end(pid);
    stop.abort();
    await expect(starting).rejects.toMatchObject({ code: "ERR_INTERRUPTED" });
    expect(lockHolder(runDir)).toBe(pid);
  });

  test("a command whose process ends meanwhile leaves no manager behind, either", async () => {
    behave({ slowMs: 60_000 });
    const module = new URL("../../../../dist/src/control/reach/start-manager.js", import.meta.url).href;
    const places = JSON.stringify({ runDir, program: STAND_IN });
    const script = `const { runDir, program } = ${places};
      process.on("SIGTERM", () => process.exit(8));
      (await import("${module}")).connectOrStart(runDir, { program });`;
    const command = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: "ignore" });
    await until("its manager's lock", () => lockHolder(runDir) !== undefined);
    const pid = lockHolder(runDir);
    command.kill("SIGTERM");
    expect(await once(command, "exit")).toEqual([8, null]);
    await until("its manager's end", () => stateOf(pid) === undefined);
  });
});

describe("untilAnswered", () => {
  test("a manager that hangs while it is asked: an error that names it, and nothing happens to it", async () => {
    behave({ stopped: "listening" });
    prepareRunDir(runDir);
    const hung = spawn(process.execPath, [STAND_IN, "manager", "--run-dir", runDir.path], {
      stdio: "ignore",
    });
    end(hung.pid ?? -1);
    await until("its stop", () => stateOf(hung.pid) === "T");
    const client = await connectOrStart(runDir, { program: STAND_IN });
    closing.push(() => client.close());
    const told: string[] = [];
    const waiting = (text: string): void => void told.push(text);
    const answer = untilAnswered(runDir, client.request("hello", {}), {
      silenceMs: 400,
      noticeMs: 100,
      waiting,
    });
    await expect(answer).rejects.toMatchObject({
      message: `cannot talk to the manager: its process ${hung.pid} is stopped`,
    });
    expect(told).toEqual([expect.stringContaining(`(pid ${hung.pid}) to answer`)]);
    // It answers as soon as it goes on.
    process.kill(hung.pid ?? -1, "SIGCONT");
    expect(await untilAnswered(runDir, client.request("hello", {}))).toMatchObject({ pid: hung.pid });
  });
});
