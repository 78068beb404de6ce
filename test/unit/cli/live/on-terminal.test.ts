/** The live table on a real terminal, which is restored at every end. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { until } from "../../../helpers/until.ts";
import { type FakeManager, startFakeManager } from "../fake-manager.ts";
import { device, manager } from "./sample.ts";

describe("on a real terminal", () => {
  const CLI = fileURLToPath(new URL("../../../../dist/src/cli/main.cjs", import.meta.url));
  let directory = "";
  let fake: FakeManager | undefined;
  const answers = {
    watch: async () => ({}),
    status: async () => ({ devices: [device(0, { mountPoints: ["/mnt"] })], notes: [], manager }),
  };

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "live-"));
  });
  afterEach(async () => {
    await fake?.close();
    fake = undefined;
    rmSync(directory, { recursive: true, force: true });
  });

  /** Prints whether the terminal has lines and echoes. */
  const TERMINAL = "stty -a | grep -o '[-]*icanon\\|[-]*echo ' | tr '\\n' ' '";
  /** The table as a child whose pid is said before, and how the terminal is after it; its exit code is the shell's. */
  const REPORT = `bash -c 'echo "pid $$"; exec $TABLE'; code=$?; ${TERMINAL}; exit $code`;

  /** util-linux' script(1) is the terminal; `shell` runs $TABLE on it. */
  function onTerminal(env: NodeJS.ProcessEnv = {}, shell = "exec $TABLE") {
    const TABLE = `${process.execPath} ${CLI} --run-dir ${directory} status --watch`;
    const child = spawn("script", ["-qec", `stty cols 90 rows 20; ${shell}`, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, TERM: "xterm", NO_COLOR: "", TABLE, SHELL: "/bin/bash", ...env },
    });
    let shown = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      shown += text;
    });
    return {
      child,
      ended: once(child, "close").then(([code]) => code as number),
      shown: () => shown,
      sees: (what: string) => until(`"${what}" is shown`, () => shown.includes(what)),
    };
  }

  test("frames are shown at events and while the manager is replaced, and Ctrl-C restores the terminal", {
    timeout: 60_000,
  }, async () => {
    fake = await startFakeManager(directory, answers);
    const terminal = onTerminal();
    await terminal.sees("\u001b[32mserving\u001b[0m");
    expect(terminal.shown()).toContain("\u001b[?1049h\u001b[?25l");
    fake.tell({ at: new Date().toISOString(), device: "/dev/nbd0", event: "stalled", message: "no worker" });
    await terminal.sees("nbd0  stalled: no worker");
    await fake.close();
    await terminal.sees("the manager went away; waiting for another one");
    const next = { devices: [device(7)], notes: ["found again"], manager };
    fake = await startFakeManager(directory, { ...answers, status: async () => next });
    await terminal.sees("nbd7");
    await terminal.sees("found again");
    terminal.child.stdin.write("\u0003");
    expect(await terminal.ended).toBe(0);
    expect(terminal.shown()).toMatch(/\?7h.\[\?25h.\[\?1049l\s*$/);
    // Each frame is painted over the last one: nothing is ever cleared first.
    expect(terminal.shown()).not.toContain("\u001b[2J");
  });

  test("keys are not echoed, and q ends the table unless it is part of an escape sequence", {
    timeout: 60_000,
  }, async () => {
    fake = await startFakeManager(directory, answers);
    const terminal = onTerminal({ PS1: "" });
    await terminal.sees("serving");
    terminal.child.stdin.write("xyzzy\u001b[A\u001bOq\r");
    fake.tell({ at: new Date().toISOString(), device: "/dev/nbd0", event: "stalled", message: "no worker" });
    await terminal.sees("nbd0  stalled: no worker");
    expect(terminal.shown()).not.toContain("xyzzy");
    terminal.child.stdin.write("q");
    expect(await terminal.ended).toBe(0);
    expect(terminal.shown()).toMatch(/\?1049l\s*$/);
  });

  test("SIGTERM and an uncaught error restore the terminal", {
    timeout: 60_000,
  }, async () => {
    for (const [signal, code, words] of [
      ["SIGTERM", 0, /\?1049l\s*icanon echo\s*$/],
      [
        "SIGUSR2",
        4,
        /\?1049l\s*erofs-nbd: internal error \(a bug in erofs-nbd\): oops[\s\S]*icanon echo\s*$/,
      ],
    ] as const) {
      fake = await startFakeManager(directory, answers);
      const preload = 'process.on("SIGUSR2", () => { throw new Error("oops"); })';
      const terminal = onTerminal(
        { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(preload)}` },
        REPORT,
      );
      await terminal.sees("serving");
      const pid = Number(/pid (\d+)/.exec(terminal.shown())?.[1]);
      process.kill(pid, signal);
      expect(await terminal.ended).toBe(code);
      expect(terminal.shown()).toMatch(words);
      await fake.close();
    }
  });

  test("Ctrl-Z suspends the table with the terminal restored, and fg continues it", {
    timeout: 60_000,
  }, async () => {
    fake = await startFakeManager(directory, answers);
    // Job control: the table is a job of this shell, which says how the terminal is while the job is stopped.
    const shell = `set -m; $TABLE; echo "stopped with $?"; ${TERMINAL}; fg; echo "ended with $?"`;
    const terminal = onTerminal({}, shell);
    await terminal.sees("serving");
    terminal.child.stdin.write("\u001a");
    await terminal.sees("stopped with 148");
    await until("it comes back", () => terminal.shown().split("\u001b[?1049h").length === 3);
    expect(terminal.shown()).toMatch(/\?1049l[^?]*stopped with 148\s+icanon echo/);
    await until(
      "a frame",
      () => terminal.shown().lastIndexOf("serving") > terminal.shown().lastIndexOf("?1049h"),
    );
    terminal.child.stdin.write("q");
    await terminal.sees("ended with 0");
    await terminal.ended;
  });

  test("NO_COLOR disables colours, and a manager that does not answer is reported and does not delay Ctrl-C", {
    timeout: 60_000,
  }, async () => {
    let asked = 0;
    fake = await startFakeManager(directory, {
      ...answers,
      status: () => {
        asked += 1;
        return asked === 1 ? answers.status() : new Promise<never>(() => {});
      },
    });
    const terminal = onTerminal({ NO_COLOR: "1" });
    await terminal.sees("nbd0");
    await terminal.sees("the manager does not answer");
    expect(terminal.shown()).not.toContain("\u001b[32m");
    terminal.child.stdin.write("\u0003");
    expect(await terminal.ended).toBe(0);
    expect(terminal.shown()).toContain("\u001b[?1049l");
  });

  test("a dumb terminal gets plain lines", async () => {
    fake = await startFakeManager(directory, answers);
    const terminal = onTerminal({ TERM: "dumb" });
    await terminal.sees("MOUNTED ON");
    expect(terminal.shown()).not.toContain("\u001b");
    terminal.child.stdin.write("\u0003");
    expect(await terminal.ended).toBe(0);
  });
});
