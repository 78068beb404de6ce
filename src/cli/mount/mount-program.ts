/**
 * Runs mount(8) and umount(8), and turns their messages into errors.
 *
 * Used by the mount and umount commands. The system calls may block on the device, so they never run in this process.
 */

import { spawn } from "node:child_process";
import type { FileHandle } from "node:fs/promises";
import { numberOf } from "../../control/target.ts";
import { ErofsNbdError } from "../../errors.ts";
import { deviceNumber } from "../../kernel/sysfs.ts";

/** How a program ended. */
export interface ProgramEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
}

/**
 * Runs `mount` or `umount`. When `stop` aborts, it sends SIGTERM and waits for the end.
 * @throws ErofsNbdError ERR_MOUNT if it cannot be started
 */
export function runProgram(name: string, words: readonly string[], stop?: AbortSignal): Promise<ProgramEnd> {
  return new Promise((resolve, reject) => {
    const child = spawn(name, words, { stdio: ["ignore", "ignore", "pipe"] });
    const kill = (): void => {
      child.kill("SIGTERM");
    };
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", (error: NodeJS.ErrnoException) => {
      stop?.removeEventListener("abort", kill);
      const why = error.code === "ENOENT" ? "there is no such program in PATH" : error.message;
      const hint = "install util-linux (mount), or add its directory to PATH";
      reject(new ErofsNbdError("ERR_MOUNT", `cannot run ${name}: ${why}`, { hint, cause: error }));
    });
    child.once("close", (exitCode, signal) => {
      stop?.removeEventListener("abort", kill);
      resolve({ exitCode, signal, stderr });
    });
    if (stop?.aborted) kill();
    else stop?.addEventListener("abort", kill, { once: true });
  });
}

/** The program's stderr as an error: the first line is the reason, the rest the hint. `act` follows "cannot ". */
export function programError(act: string, name: string, end: ProgramEnd): ErofsNbdError {
  const lines = end.stderr
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  const [first = `${name} ended with ${end.signal ?? end.exitCode}`, ...more] = lines;
  const why = first.startsWith(`${name}: `) ? first.slice(name.length + 2) : first;
  return new ErofsNbdError("ERR_MOUNT", `cannot ${act}: ${why}`, {
    hint: more.length === 0 ? undefined : more.join(" "),
  });
}

/**
 * In another mount namespace or root directory a node of that name may be another device. @throws ErofsNbdError
 * ERR_MOUNT
 */
export async function refuseOtherNode(
  act: string,
  node: string,
  index: number,
  held: FileHandle,
): Promise<void> {
  const found = await held.stat({ bigint: true });
  const number = deviceNumber(index);
  if (!found.isBlockDevice() || number === undefined || numberOf(found.rdev) === number) return;
  throw new ErofsNbdError(
    "ERR_MOUNT",
    `cannot ${act}: ${node} is another device here, ${numberOf(found.rdev)}`,
    {
      hint: `create a node for ${number} there, or mount from the manager's namespace`,
    },
  );
}
