/**
 * A manager inside a program, as the program runs it: what its workers have of the program. No device, no kernel's nbd.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** Runs a manager with a logger of its own, and prints the lines that it got of the workers' starts. */
const WITH_PINO = `
  import { setTimeout as sleep } from "node:timers/promises";
  import { NbdManager } from "erofs-nbd";
  import { pino } from "pino";
  const lines = [];
  const log = pino({}, { write: (line) => void lines.push(JSON.parse(line)) });
  const manager = new NbdManager({ runDir: process.argv[1], log });
  await manager.start();
  const starts = () => lines.filter(({ msg }) => msg?.startsWith("Started worker"));
  while (starts().length === 0) await sleep(10);
  await manager.stop();
  console.log(JSON.stringify(starts()[0]));
  process.exit();
`;

/** Says where its workers' stderr leads, and which files it has open itself once its manager has ended. */
const PROGRAM = `
  import { readdirSync, readlinkSync } from "node:fs";
  import { setTimeout as sleep } from "node:timers/promises";
  import { NbdManager } from "erofs-nbd";
  const runDir = process.argv[1];
  const pids = [];
  const info = (_, fields) => fields?.workerPid && pids.push(fields.workerPid);
  const manager = new NbdManager({ runDir, log: { info, warn() {}, error() {} } });
  await manager.start();
  while (pids.length === 0) await sleep(10);
  const stderr = readlinkSync("/proc/" + pids[0] + "/fd/2");
  await manager.stop();
  const links = readdirSync("/proc/self/fd").flatMap((fd) => {
    try { return [readlinkSync("/proc/self/fd/" + fd)]; } catch { return []; }
  });
  console.log(JSON.stringify({ stderr, left: links.filter((link) => link.startsWith(runDir)) }));
  process.exit();
`;

/** What a program prints that is run with a fresh run directory as its argument. */
async function runProgram(text: string): Promise<{ runDir: string; printed: unknown }> {
  const runDir = mkdtempSync(join(tmpdir(), "nbd-manager-"));
  try {
    const words = ["--input-type=module", "--eval", text, runDir];
    const { stdout } = await promisify(execFile)(process.execPath, words, { cwd: ROOT });
    return { runDir, printed: JSON.parse(stdout) };
  } finally {
    rmSync(runDir, { recursive: true, force: true });
  }
}

test.runIf(process.getuid?.() === 0)(
  "a pino logger of the program gets messages with their fields",
  async () => {
    const { printed } = await runProgram(WITH_PINO);
    expect(printed).toMatchObject({
      level: 30,
      msg: expect.stringMatching(/^Started worker \d+/),
      workerPid: expect.any(Number),
    });
  },
);

test.runIf(process.getuid?.() === 0)(
  "workers write to the run directory's log, and hold nothing of the program's",
  async () => {
    const { runDir, printed } = await runProgram(PROGRAM);
    expect(printed).toEqual({ stderr: join(runDir, "manager.log"), left: [] });
  },
);
