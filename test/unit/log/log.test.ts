/** log.ts and its parts: formats by where stderr leads, storms, levels, and a file that stays small. */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { MAX_LOG_BYTES } from "../../../src/log/log-file.ts";
import { BURST_LINES, LineLimiter, MAX_LINES, WINDOW_MS } from "../../../src/log/rate-limit.ts";

const LOG = fileURLToPath(new URL("../../../dist/src/log/log.js", import.meta.url));

let directory: string;
let logFile: string;
let fds: number[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "log-"));
  logFile = join(directory, "manager.log");
});
afterEach(() => {
  for (const fd of fds) closeSync(fd);
  fds = [];
  rmSync(directory, { recursive: true, force: true });
});

/** Runs lines of a program that has `log`, with stderr appended to the log file; returns what is there then. */
function run(program: string, env: NodeJS.ProcessEnv = {}, options = "{}"): string {
  const fd = openSync(logFile, "a");
  fds.push(fd);
  const script = `import { createLog } from ${JSON.stringify(LOG)}; const log = createLog(${options});\n${program}`;
  const { status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "ignore", fd],
    env: { ...process.env, JOURNAL_STREAM: "", EROFS_NBD_LOG: "", ...env },
  });
  expect(status).toBe(0);
  return readFileSync(logFile, "utf8");
}

const parsed = (text: string): Array<Record<string, unknown>> =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe("formats", () => {
  test("JSON lines, with time, pid, level and fields", () => {
    const [line, ...others] = parsed(run('log.warn("nbd0: gone", { links: 3 });'));
    expect(others).toEqual([]);
    expect(line).toMatchObject({ level: 40, msg: "nbd0: gone", links: 3, pid: expect.any(Number) });
    expect(Date.parse(String(line?.["time"]))).toBeGreaterThan(Date.now() - 60_000);
  });

  test("a field that is called as a part of the line does not take its place", () => {
    const [line] = parsed(run('log.warn("nbd0: recovered", { level: "takeover", time: 3 });'));
    expect(line).toMatchObject({ level: 40, level_: "takeover", time_: 3, msg: "nbd0: recovered" });
  });

  test("for the journal a priority, the words and the fields, in one line each", () => {
    const fd = openSync(logFile, "a");
    fds.push(fd);
    const { dev, ino } = fstatSync(fd);
    const program =
      'log.info("ready", { pid: 1, n: 2 }); log.warn("two\\nlines"); log.error("bad"); log.debug("fine");';
    const text = run(program, { JOURNAL_STREAM: `${dev}:${ino}`, EROFS_NBD_LOG: "debug" });
    expect(text).toBe('<6>ready  {"n":2}\n<4>two lines\n<3>bad\n<7>fine\n');
  });

  test("a JOURNAL_STREAM of another process is ignored", () => {
    expect(run('log.info("x");', { JOURNAL_STREAM: "1:2" })).toMatch(/^\{"level":30/);
  });

  test("text on a terminal", () => {
    const script = `import { createLog } from "${LOG}"; createLog().error("bad", { a: 1 });`;
    const words = `'${process.execPath}' --input-type=module -e '${script}'`;
    const { stdout } = spawnSync("script", ["-qec", words, "/dev/null"], {
      encoding: "utf8",
      env: { ...process.env, JOURNAL_STREAM: "" },
    });
    expect(stdout).toMatch(/^\d\d:\d\d:\d\d\.\d{3} {2}error {2}bad {2}\{"a":1\}\r?\n$/);
  });
});

describe("levels", () => {
  const all = 'log.debug("d"); log.info("i"); log.warn("w"); log.error("e");';
  const levels = (env: NodeJS.ProcessEnv, options?: string): unknown[] =>
    parsed(run(all, env, options)).map(({ level }) => level);

  test("info by default", () => expect(levels({})).toEqual([30, 40, 50]));
  test("by environment", () => expect(levels({ EROFS_NBD_LOG: "debug" })).toEqual([20, 30, 40, 50]));
  test("an option goes before it", () =>
    expect(levels({ EROFS_NBD_LOG: "debug" }, '{ level: "error" }')).toEqual([50]));
  test("one that is none is said, and costs nothing else", () => {
    expect(parsed(run(all, { EROFS_NBD_LOG: "loud" }))[0]).toMatchObject({ level: 40, value: "loud" });
  });
});

describe("storms", () => {
  test("of lines that differ in figures alone ten are written, and at the end how many more there were", () => {
    const program = `for (let i = 0; i < 1000; i += 1) log.warn(\`nbd0: attempt \${i} failed\`, { i });
      log.error("something else");`;
    const lines = parsed(run(program));
    expect(lines).toHaveLength(BURST_LINES + 2);
    expect(lines[BURST_LINES]).toMatchObject({ msg: "something else" });
    expect(lines.at(-1)).toMatchObject({
      level: 40,
      suppressed: 990,
      msg: "990 more like this: nbd0: attempt 999 failed",
    });
  });

  test("what was left out is told at the end of its window, though nothing is logged any more", () => {
    const program = `
      import { writeSync } from "node:fs";
      let nowMs = 0;
      performance.now = () => nowMs;
      const timers = [];
      globalThis.setTimeout = (act, ms) => {
        timers.push({ act, atMs: nowMs + ms });
        return { unref() {} };
      };
      const runUntil = (endMs) => {
        for (let due; (due = timers.find(({ atMs }) => atMs <= endMs)) !== undefined; ) {
          timers.splice(timers.indexOf(due), 1);
          nowMs = Math.max(nowMs, due.atMs);
          due.act();
        }
        nowMs = endMs;
      };
      const storm = (name, many) => {
        for (let i = 0; i < many; i += 1) log.warn(name);
      };
      storm("first", ${BURST_LINES});
      runUntil(5000);
      storm("first", 3);
      runUntil(${WINDOW_MS - 1});
      nowMs = ${WINDOW_MS + 1}; // the timer is late
      storm("second", ${BURST_LINES + 4});
      runUntil(${3 * WINDOW_MS});
      writeSync(2, JSON.stringify({ msg: "silence", timers: timers.length }) + "\\n");
    `;
    const said = parsed(run(program)).map(({ msg }) => msg);
    expect(said.filter((msg) => msg !== "first" && msg !== "second")).toEqual([
      "3 more like this: first",
      "4 more like this: second",
      "silence",
    ]);
  });

  test("devices do not silence each other, nor do levels", () => {
    const limiter = new LineLimiter<"info" | "warn">();
    limiter.ended(0);
    for (let index = 0; index < 500; index += 1)
      expect(limiter.admit("info", `nbd${index} is serving`)).toBe(true);
    for (let many = 0; many < BURST_LINES; many += 1) limiter.admit("warn", "worker 7 ended after 1.5 s");
    expect(limiter.admit("warn", "worker 99 ended after 22.5 s")).toBe(false);
    expect(limiter.admit("info", "worker 99 ended after 22.5 s")).toBe(true);
  });

  test("a window that is over tells what was left out, and the next one begins with all there is to say", () => {
    const limiter = new LineLimiter<"info">();
    expect(limiter.ended(0)).toEqual([]);
    for (let many = 0; many < 25; many += 1) limiter.admit("info", "x");
    expect(limiter.ended(WINDOW_MS - 1)).toEqual([]);
    expect(limiter.ended(WINDOW_MS)).toEqual([{ level: "info", message: "x", count: 25 - BURST_LINES }]);
    expect(limiter.admit("info", "x")).toBe(true);
    expect(limiter.ended(3 * WINDOW_MS)).toEqual([]);
  });

  test("a flood of different lines ends, too, and does not fill the memory", () => {
    const limiter = new LineLimiter<"info">();
    limiter.ended(0);
    let written = 0;
    for (let many = 0; many < 3 * MAX_LINES; many += 1) {
      if (limiter.admit("info", `nbd${many}: x`)) written += 1;
    }
    expect(written).toBe(MAX_LINES);
    expect(limiter.ended(WINDOW_MS)).toEqual([
      { level: "info", message: expect.any(String), count: 2 * MAX_LINES },
    ]);
  });
});

describe("a log file", () => {
  const options = (): string => JSON.stringify({ file: { logFile, oldLogFile: `${logFile}.1` } });
  const flood = (megabytes: number): string =>
    // Each line another device: no storm.
    `for (let i = 0; i < ${megabytes * 1024}; i += 1) log.info(\`nbd\${i}: \` + "x".repeat(1024));`;

  test("becomes the old one when it is large, and the newest lines are in one of the two", () => {
    const text = run(`${flood(3)} log.info("the last");`, {}, options());
    expect(statSync(logFile).size).toBeLessThan(MAX_LOG_BYTES * 1.1);
    expect(statSync(`${logFile}.1`).size).toBeLessThan(MAX_LOG_BYTES * 1.1);
    expect(text.trimEnd().split("\n").at(-1)).toContain('"msg":"the last"');
    const both = readFileSync(`${logFile}.1`, "utf8") + text;
    const numbers = [...both.matchAll(/"msg":"nbd(\d+): x/g)].map(([, digits]) => Number(digits));
    expect(numbers.at(-1)).toBe(3071);
    expect(numbers).toEqual(numbers.map((_, at) => (numbers[0] as number) + at));
  });

  test("that another process appends to goes on for both", () => {
    const other = openSync(logFile, "a");
    fds.push(other);
    run(flood(2), {}, options());
    writeFileSync(other, "from a worker\n");
    expect(readFileSync(logFile, "utf8")).toMatch(/\nfrom a worker\n$/);
    expect(statSync(logFile).size).toBeLessThan(MAX_LOG_BYTES * 1.1);
  });

  test("whose old one cannot be written is emptied all the same", () => {
    const nowhere = JSON.stringify({ file: { logFile, oldLogFile: join(directory, "no", "such") } });
    run(flood(2), {}, nowhere);
    expect(statSync(logFile).size).toBeLessThan(MAX_LOG_BYTES * 1.1);
  });

  test("that is not the one which was named is left alone", () => {
    const elsewhere = JSON.stringify({
      file: { logFile: join(directory, "other"), oldLogFile: `${logFile}.1` },
    });
    run(flood(2), {}, elsewhere);
    expect(statSync(logFile).size).toBeGreaterThan(2 * MAX_LOG_BYTES);
  });
});
