/**
 * Interrupted runs leave nothing: `npm run lab` and `npm test` with a guest are started, interrupted at several moments
 * and in several ways, and then /proc, the mounts and the directories are looked at.
 *
 * Each run gets a temporary directory of its own, whose name its processes carry in their environment. That is how even
 * those are found that left their parent, group and session.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { mountsBelow } from "../../tools/leftovers.mjs";
import { until } from "../helpers/until.ts";
import { boot } from "../kernel/lab/boot.mjs";

const LAB = ["run", "lab", "--", "6.12", "--", "sh", "-c", "echo $((6 * 7)) bottles; sleep 600"];
const GUEST_TESTS = ["--project", "kernel", "--kernel", "6.12", "--guest", "lab.test"];
const TEST = ["test", "--", "--built", "--only-tests", ...GUEST_TESTS];
const PATIENCE_MS = 50_000;

let place = "";
let output = "";

// With an empty cache the kernel is downloaded first, which may take minutes.
beforeAll(() => boot({ kernel: "6.12", command: ["true"] }), 900_000);

beforeEach(() => {
  place = mkdtempSync(join(realpathSync(tmpdir()), "int-"));
  output = "";
});

afterEach(() => {
  for (const { pid } of processes()) process.kill(pid, "SIGKILL");
  rmSync(place, { recursive: true, force: true });
});

const launcher = (): Process | undefined => processes().find(({ words }) => /launch\.mjs/.test(words));
const kernel = (): Process | undefined => processes().find(({ words }) => /lab_share=/.test(words));

const MOMENTS = {
  "when the launcher has begun": () => launcher() !== undefined && readdirSync(place).length > 0,
  "while a kernel starts": () => kernel() !== undefined,
  "while a command runs in the guest": () => output.includes("42 bottles"),
};

describe("npm run lab", () => {
  test("leaves nothing when npm is killed before the launcher looks at its ancestors", async () => {
    const npm = start("npm", LAB);
    await until("npm has told what it runs", () => output.includes("launch.mjs"), PATIENCE_MS);
    npm.kill("SIGKILL");
    await expectNothingLeft();
  });

  test.each([
    ["SIGTERM", "when the launcher has begun"],
    ["SIGKILL", "when the launcher has begun"],
    ["SIGINT", "while a kernel starts"],
    ["SIGINT", "while a command runs in the guest"],
    ["SIGTERM", "while a command runs in the guest"],
    ["SIGHUP", "while a command runs in the guest"],
    ["SIGKILL", "while a command runs in the guest"],
  ] as const)("leaves nothing when npm gets %s %s", async (signal, moment) => {
    const npm = start("npm", LAB);
    await until(moment, MOMENTS[moment], PATIENCE_MS);
    npm.kill(signal);
    await expectNothingLeft();
  });

  test("leaves nothing at Ctrl-C, which goes to all of the foreground's processes", async () => {
    const { pid = 0 } = start("npm", LAB);
    await until("a command runs in the guest", () => output.includes("42 bottles"), PATIENCE_MS);
    process.kill(-pid, "SIGINT");
    await expectNothingLeft();
  });

  test("leaves nothing when its terminal is closed", async () => {
    const words = ["npm", ...LAB].map((word) => `'${word}'`).join(" ");
    const terminal = start("script", ["-qec", words, "/dev/null"]);
    await until("a command runs in the guest", () => output.includes("42 bottles"), PATIENCE_MS);
    terminal.kill("SIGKILL");
    await expectNothingLeft();
  });

  test("leaves nothing when the launcher itself is killed", async () => {
    start("npm", LAB);
    await until("a command runs in the guest", () => output.includes("42 bottles"), PATIENCE_MS);
    process.kill(launcher()?.pid ?? Number.NaN, "SIGKILL");
    await expectNothingLeft();
  });
});

describe("npm test", () => {
  test.each(["SIGINT", "SIGTERM", "SIGKILL"] as const)("leaves nothing when npm gets %s", async (signal) => {
    const npm = start("npm", TEST);
    await until("a guest's kernel starts", () => kernel() !== undefined, PATIENCE_MS);
    expect(processes().filter(({ words }) => /vitest/.test(words)).length).toBeGreaterThan(0);
    const share = /lab_share=([^\0]+)/.exec(kernel()?.words ?? "")?.[1] ?? "";
    expect(share).toContain("/.cache/kernel-tests/");
    npm.kill(signal);
    await expectNothingLeft();
    expect(existsSync(share)).toBe(false);
  });
});

/** Starts a job as a shell does: in a process group of its own. */
function start(file: string, args: readonly string[]): ChildProcess {
  const child = spawn(file, args, {
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
    env: { ...withoutNpm(), TMPDIR: place },
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  }
  return child;
}

/** The run is to think that nothing above it is npm or a run of its own. */
function withoutNpm(): NodeJS.ProcessEnv {
  const own = /^(npm_|VITEST|NODE_ENV|EROFS_NBD_(LAUNCH|KERNELS|GUEST_FILTER)$)/;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !own.test(name)));
}

async function expectNothingLeft(): Promise<void> {
  await until("no process of the run is left", () => processes().length === 0, PATIENCE_MS).catch(() => {
    expect(processes()).toEqual([]);
  });
  expect(readdirSync(place)).toEqual([]);
  expect(mountsBelow(place)).toEqual([]);
}

interface Process {
  readonly pid: number;
  readonly words: string;
}

/** The living processes that carry the run's directory in their environment. */
function processes(): Process[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && read(name, "environ").includes(place))
    .map((name) => ({ pid: Number(name), words: read(name, "cmdline") }));
}

function read(pid: string, file: string): string {
  try {
    return readFileSync(join("/proc", pid, file), "utf8");
  } catch {
    return "";
  }
}
