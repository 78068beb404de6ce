/**
 * A manager as a process: takes the run directory's lock, opens the control socket, and decides when to end.
 *
 * Used by the command `manager` (run by a user or a service, or by another command with `--auto`), by
 * `attach --foreground` and by the library. An automatic manager ends when it has no devices and no connections.
 */
import { closeSync } from "node:fs";
import { hasRecords, openLog, type RunDir } from "../control/run-dir.ts";
import { prepareRunDir } from "../control/run-dir-trust.ts";
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
  /** End with the last device, or soon if no device is attached. */
  readonly auto: boolean;
  readonly log?: Log;
  /** For the log that is made where none is given. */
  readonly logLevel?: LogLevel | undefined;
  /** Where metrics are offered in addition to the run directory's socket. */
  readonly metricsAddress?: LoopbackAddress | undefined;
  /** False where the process is part of another program: `upgrade` does not replace it. */
  readonly replaceable?: boolean;
  /** The manager runs inside another program, whose priority must not change. */
  readonly isGuest?: boolean;
  /** Ask a manager that runs there to step down. */
  readonly takeOver?: boolean;
  /** Set where this manager is a service. */
  readonly service?: Service | undefined;
}

export interface Daemon {
  readonly manager: Manager;
  /** Resolves when the daemon has ended by itself or by `stop`. */
  readonly ended: Promise<void>;
  /** Ends the manager. Its devices stay, served by their workers. */
  stop(): Promise<void>;
}

/** How long an automatic manager without devices waits before it ends: after its start, and after its last device. */
const FIRST_IDLE_MS = 3000;
const IDLE_MS = 500;
/** A manager that steps down ends this long after its answer. */
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
        hint: "use that manager, or name another directory with --run-dir",
      },
    );
  }
  if (options.isGuest !== true) raisePriority();
  // systemd restarts its services, and a program starts a new manager of its own.
  const needsGuardian = options.service === undefined && options.isGuest !== true;
  const guardian = needsGuardian ? new Guardian({ runDir, auto }) : undefined;
  // Workers outlive the program: they must not keep its stderr open, which may also be closed.
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
    // The answer is sent first.
    setTimeout(() => void stop(), ANSWER_MS);
    return { auto };
  };
  let stop = (): Promise<void> => Promise.resolve();
  let finish = (): void => {};
  const ended = new Promise<void>((resolve) => {
    finish = resolve;
  });
  try {
    // Start the guardian first, in case adoption crashes this process.
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
