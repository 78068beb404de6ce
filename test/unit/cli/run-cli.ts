/**
 * The built command line as a child process, for the unit tests of cli/: no kernel driver is needed for them.
 *
 * If this process is not root, the command runs as root of a user namespace of its own, because it refuses to attach
 * otherwise.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { vi } from "vitest";

export const CLI: string = fileURLToPath(new URL("../../../dist/src/cli/main.cjs", import.meta.url));

/** The program that mount(8) runs. */
export const MOUNT_HELPER: string = fileURLToPath(
  new URL("../../../dist/src/cli/mount-helper.cjs", import.meta.url),
);

// Every test that imports this starts processes, and the machine may be busy.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

/** How a command ended and what it said. */
export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A command at work. */
export interface RunningCli {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  readonly ended: Promise<CliResult>;
  /** Resolves when stdout, or stderr, holds a match; rejects when the command ends without. */
  until(stream: "stdout" | "stderr", pattern: RegExp): Promise<RegExpExecArray>;
}

/** What a test may change around the command. */
export interface CliOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Run without any privilege: in a user namespace that maps no user, where files stay as readable as they are. */
  readonly unprivileged?: boolean;
  /** Default: erofs-nbd itself. */
  readonly program?: string;
  /** An open descriptor that the command gets as HELD_FD, as if its shell had a file open there. */
  readonly held?: number;
}

/** Above those that Node marks as close-on-exec by itself when it starts. */
const HELD_FD = 200;

export function startCli(args: readonly string[], options: CliOptions = {}): RunningCli {
  if (!existsSync(CLI)) throw new Error(`cannot run the command line: ${CLI} is missing (npm run build)`);
  const words = [process.execPath, options.program ?? CLI, ...args];
  const isRoot = process.geteuid?.() === 0;
  const unprivileged = options.unprivileged ?? false;
  const namespace = isRoot === unprivileged ? ["unshare", unprivileged ? "--user" : "--map-root-user"] : [];
  const [program = "", ...rest] = [...namespace, ...words];
  const { cwd, held } = options;
  const stdio: Array<"ignore" | "pipe" | number> = ["ignore", "pipe", "pipe"];
  if (held !== undefined) stdio.push(...Array<"ignore">(HELD_FD - stdio.length).fill("ignore"), held);
  const child = spawn(program, rest, {
    stdio,
    env: { ...process.env, ...options.env },
    ...(cwd === undefined ? {} : { cwd }),
  }) as RunningCli["child"];
  const said = { stdout: "", stderr: "" };
  const wakers = new Set<() => void>();
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
      for (const wake of [...wakers]) wake();
    });
  }
  let isOver = false;
  const ended = once(child, "close").then(([code]): CliResult => {
    isOver = true;
    for (const wake of [...wakers]) wake();
    return { code: code as number | null, ...said };
  });
  const until = (stream: "stdout" | "stderr", pattern: RegExp): Promise<RegExpExecArray> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const match = pattern.exec(said[stream]);
        if (match === null && !isOver) return;
        wakers.delete(look);
        if (match !== null) resolve(match);
        else reject(new Error(`The command ended without ${pattern} on ${stream}: ${JSON.stringify(said)}`));
      };
      wakers.add(look);
      look();
    });
  return { child, ended, until };
}

/** Runs `erofs-nbd ARGS` to its end. */
export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return startCli(args, options).ended;
}
