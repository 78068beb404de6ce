/**
 * A process whose first thread has ended while others go on: a zombie by /proc, as a killed process is whose other
 * thread is stuck in the kernel.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { processStat } from "../../../src/sys/process-stat.ts";
import { until } from "../until.ts";

const KOFFI = createRequire(import.meta.url).resolve("koffi");
/** exit(2), which ends the calling thread alone; exit_group(2) ends the process. */
const EXIT_CALL: Partial<Record<NodeJS.Architecture, number>> = { x64: 60, arm64: 93 };
const END_FIRST_THREAD = `
const call = require(process.argv[1]).load("libc.so.6").func("long syscall(long, long)");
call(Number(process.argv[2]), 0);`;

export interface Zombie {
  readonly pid: number;
  end(): Promise<void>;
}

export async function makeZombie(): Promise<Zombie> {
  const child = spawn(process.execPath, ["-e", END_FIRST_THREAD, KOFFI, `${EXIT_CALL[process.arch]}`], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const { pid = -1 } = child;
  await until("it is a zombie", () => processStat(pid)?.state === "Z");
  return {
    pid,
    end: async () => {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    },
  };
}
