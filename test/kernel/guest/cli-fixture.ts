/**
 * What the guest tests of the command line share: images of every kind, how a refusal looks, a command at work.
 *
 * Used by cli*.test.ts. Each file makes its own directory and removes it.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { afterAll, beforeAll, expect } from "vitest";
import { fillDirectory, makeImage } from "../../helpers/images/erofs-image.ts";
import { CLI, type CommandResult, until, withoutWaiting } from "./product.ts";

export const RUN_DIR = "/run/erofs-nbd";

/** Paths of a test file's own directory, which every user may enter. */
export interface CliFixture {
  at(name: string): string;
  /** A good image of `tree`. */
  readonly image: string;
  readonly mountPoint: string;
}

/** Call once per file: makes good.erofs, truncated.erofs, empty, raw, tree/ and mnt/ before its tests. */
export function cliFixture(): CliFixture {
  let directory = "";
  const at = (name: string): string => join(directory, name);
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "cli-"));
    chmodSync(directory, 0o755);
    mkdirSync(at("tree"));
    mkdirSync(at("mnt"));
    fillDirectory(at("tree"), 5, 400_000);
    await makeImage(at("good.erofs"), at("tree"));
    copyFileSync(at("good.erofs"), at("truncated.erofs"));
    truncateSync(at("truncated.erofs"), 8192);
    writeFileSync(at("empty"), "");
    writeFileSync(at("raw"), "raw ".repeat(1000));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return {
    at,
    get image() {
      return at("good.erofs");
    },
    get mountPoint() {
      return at("mnt");
    },
  };
}

/** One error line, an optional hint, and the exit code. */
export function expectRefusal(result: CommandResult, code: number, message: RegExp): void {
  expect(result, result.stderr).toMatchObject({ code, stdout: "" });
  const lines = result.stderr.trimEnd().split("\n");
  const errors = lines.filter((line) => line.startsWith("erofs-nbd: "));
  expect(errors, result.stderr).toHaveLength(1);
  expect(errors[0]).toMatch(message);
  for (const line of lines) expect(line).toMatch(/^(erofs-nbd: (cannot|invalid|must) |hint: |note: )/);
}

const records = (): string[] => (existsSync(`${RUN_DIR}/devices`) ? readdirSync(`${RUN_DIR}/devices`) : []);

/**
 * No record of a device, and no manager. Both may take a moment: after a plain umount, a refusal or a kill the command
 * does not wait for the manager, and an automatic one leaves when it has had nothing to do for a while.
 */
export async function expectNothingAttached(): Promise<void> {
  await until("the end of every record", () => records().length === 0);
  await until("the end of the manager", () => !existsSync(`${RUN_DIR}/control.sock`));
}

/** How often something is mounted at a path. */
export const mountsAt = (path: string): number =>
  readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line.split(" ")[4] === path).length;

/** A command that the test sends signals to. */
export interface RunningCommand {
  kill(signal: NodeJS.Signals): void;
  /** What it prints next on a stream; an error when it ends without. */
  next(stream: "stdout" | "stderr"): Promise<string>;
  /** The manager has begun to attach for it: it writes the record before the act. */
  hasBegun(): Promise<void>;
  readonly ended: Promise<CommandResult>;
}

/** `before` are words of a program that runs the command, such as unshare. */
export function start(args: readonly string[], before: readonly string[] = []): RunningCommand {
  const [program = "", ...words] = [...before, process.execPath, CLI, ...args];
  const child = spawn(program, words, { stdio: ["ignore", "pipe", "pipe"] });
  const said = { stdout: "", stderr: "" };
  const streams: Record<"stdout" | "stderr", Readable> = { stdout: child.stdout, stderr: child.stderr };
  for (const name of ["stdout", "stderr"] as const) {
    streams[name].setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
    });
  }
  const ended = once(child, "close").then(([code]) => ({
    code: code as number | null,
    stdout: said.stdout,
    stderr: withoutWaiting(said.stderr),
  }));
  const unlessEnded = <T>(wanted: Promise<T>): Promise<T> =>
    Promise.race([
      wanted,
      ended.then((result) => {
        throw new Error(`The command ended early: ${JSON.stringify(result)}`);
      }),
    ]);
  return {
    kill: (signal) => {
      child.kill(signal);
    },
    next: async (stream) => {
      const [text] = (await unlessEnded(once(streams[stream], "data"))) as [string];
      return text.trim();
    },
    hasBegun: () => unlessEnded(until("a record of the device", () => records().length > 0)),
    ended,
  };
}
