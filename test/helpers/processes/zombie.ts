/** A process that has ended and is never reaped: what /proc shows of one whose other thread is stuck in the kernel. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { processStat } from "../../../src/sys/process-stat.ts";
import { until } from "../until.ts";

export interface Zombie {
  readonly pid: number;
  end(): Promise<void>;
}

export async function makeZombie(): Promise<Zombie> {
  const parent = spawn("sh", ["-c", "sleep 0 & echo $!; exec sleep 1000"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [line] = (await once(parent.stdout, "data")) as [Buffer];
  const pid = Number(line.toString());
  await until("it is a zombie", () => processStat(pid)?.state === "Z");
  return {
    pid,
    end: async () => {
      parent.kill("SIGKILL");
      await once(parent, "exit");
    },
  };
}
