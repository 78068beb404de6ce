/**
 * A manager as a process: the run directory's lock, the control socket, and when to end.
 *
 * Used by `manager` (explicitly, or started by a client with `auto`) and by `attach --foreground`. An automatic
 * manager ends when its last device has gone and nobody is asking it anything.
 */
import { closeSync } from "node:fs";
import { hasRecords, openLog, prepareRunDir, type RunDir } from "../control/run-dir.ts";
import { lockRunDir } from "../control/run-lock.ts";
import { ErofsNbdError } from "../errors.ts";
import { createLog, type Log, type LogLevel } from "../log/log.ts";
import { raisePriority } from "../sys/priority.ts";
import { ControlServer } from "./control-server/control-server.ts";
import { Guardian } from "./guardian.ts";
import { Manager } from "./manager.ts";
import type { LoopbackAddress } from "./metrics/metrics-address.ts";
import { MetricsServer } from "./metrics/metrics-server.ts";
import { renderMetrics } from "./metrics/metrics-text.ts";
import type { Service } from "./service/service.ts";
import { lockInsteadOfOther } from "./service/take-over.ts";

export interface DaemonOptions {
  readonly runDir: RunDir;
  /** End with the last device, and at once when the first attach does not come. */
  readonly auto: boolean;
  readonly log?: Log;
  /** Of the log that is made where none is given. */
  readonly logLevel?: LogLevel | undefined;
  /** Where metrics are offered besides the run directory's socket. */
  readonly metricsAddress?: LoopbackAddress | undefined;
  /** False where the process is more than a manager: `upgrade` leaves it alone. */
  readonly replaceable?: boolean;
  /** The process is somebody's program: its priority is not ours to change. */
  readonly isGuest?: boolean;
  /** A manager that runs there steps down for this one. */
  readonly takeOver?: boolean;
  /** The service that this manager is, where it is one. */
  readonly service?: Service | undefined;
}

export interface Daemon {
  readonly manager: Manager;
  /** Resolves when the daemon has ended, by itself or by `stop`. */
  readonly ended: Promise<void>;
  /** Ends the manager; its devices stay, served by their workers. */
  stop(): Promise<void>;
}

/** How long an automatic manager without devices waits for something to do: at first, and after it has done something. */
const FIRST_IDLE_MS = 3000;
const IDLE_MS = 500;
/** A manager that makes way for another one is gone this long after it has said so. */
const ANSWER_MS = 20;

/** @throws ErofsNbdError ERR_RUN_DIR, ERR_CONTROL when another manager has the run directory */
export async function runDaemon(options: DaemonOptions): Promise<Daemon> {
  const { runDir, auto } = options;
  const log = options.log ?? createLog({ level: options.logLevel, file: runDir });
  prepareRunDir(runDir);
  const lock = options.takeOver === true ? await lockInsteadOfOther(runDir, log) : lockRunDir(runDir);
  if ("heldBy" in lock) {
    throw new ErofsNbdError(
      "ERR_CONTROL",
      `cannot start a manager in ${runDir.path}: manager ${lock.heldBy} runs there`,
      {
        hint: "it does what this one would; or name another directory with --run-dir",
      },
    );
  }
  if (options.isGuest !== true) raisePriority();
  // systemd starts its services again itself, and a program that has a manager of its own does so, too.
  const needsGuardian = options.service === undefined && options.isGuest !== true;
  const guardian = needsGuardian ? new Guardian({ runDir, auto }) : undefined;
  // Somebody's program may have closed its stderr, or have it read to its end: workers outlive it and must not hold that.
  const workerLogFd = options.isGuest === true ? openLog(runDir) : undefined;
  const manager = new Manager({
    runDir,
    log,
    workerStderr: workerLogFd ?? "inherit",
    isForAttach: auto,
  });
  const stepDown = async (): Promise<{ auto: boolean }> => {
    await manager.stepDown();
    guardian?.retire();
    // After the answer is on its way.
    setTimeout(() => void stop(), ANSWER_MS);
    return { auto };
  };
  let stop = (): Promise<void> => Promise.resolve();
  let finish = (): void => {};
  const ended = new Promise<void>((resolve) => {
    finish = resolve;
  });
  try {
    // Whoever dies of what it finds here is to have a successor, too.
    guardian?.keep(hasRecords(runDir));
    await manager.start();
    const server = new ControlServer(
      runDir.controlSocket,
      manager,
      log,
      options.replaceable === false ? undefined : stepDown,
    );
    const metrics = new MetricsServer({
      socketPath: runDir.metricsSocket,
      address: options.metricsAddress,
      log,
      render: () => renderMetrics(manager.figures()),
    });
    let stopping: Promise<void> | undefined;
    stop = (): Promise<void> => {
      stopping ??= (async () => {
        options.service?.stopping();
        clearInterval(idle);
        guardian?.retire();
        server.close();
        metrics.close();
        await manager.stop();
        if (workerLogFd !== undefined) closeSync(workerLogFd);
        lock.release();
        log.info("The manager ends");
        finish();
      })();
      return stopping;
    };
    let idleSince = performance.now();
    let patienceMs = FIRST_IDLE_MS;
    const idle = setInterval(() => {
      guardian?.keep(manager.deviceCount > 0);
      if (manager.deviceCount > 0 || server.connectionCount > 0) {
        idleSince = performance.now();
        patienceMs = IDLE_MS;
      } else if (auto && performance.now() - idleSince >= patienceMs) void stop();
    }, IDLE_MS / 4);
    options.service?.started(manager);
    log.info("The manager is ready", { runDir: runDir.path, auto });
    return { manager, ended, stop };
  } catch (error) {
    await manager.abandon();
    if (workerLogFd !== undefined) closeSync(workerLogFd);
    lock.release();
    throw error;
  }
}
