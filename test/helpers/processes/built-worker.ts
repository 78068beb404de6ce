/** The worker of the build, for tests that start real worker processes: its path, and the end of a pool of them. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { WorkerPool } from "../../../src/pool/worker-pool.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../../../src/sys/process-identity.ts";
import { until } from "../until.ts";

export const WORKER_PATH: string = fileURLToPath(
  new URL("../../../dist/src/worker/main.js", import.meta.url),
);
if (!existsSync(WORKER_PATH)) throw new Error(`${WORKER_PATH} is missing: build first (npm run build)`);

/** The workers of a pool, by pid and start time. */
export function workersOf(pool: WorkerPool): ProcessIdentity[] {
  return pool.pids.map(identifyProcess).filter((found) => found !== undefined);
}

/** Stops a pool, kills its workers, and waits for their end. */
export async function endPool(pool: WorkerPool): Promise<void> {
  const workers = workersOf(pool);
  pool.stop();
  for (const worker of workers) if (isAlive(worker)) process.kill(worker.pid, "SIGKILL");
  await until("the workers have ended", () => !workers.some(isAlive));
}
