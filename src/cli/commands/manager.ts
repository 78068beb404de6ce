/**
 * `manager`: runs the manager in this process until a signal.
 *
 * Started by the service unit, and by the first attach. Devices outlive it: the workers go on serving, and the next
 * manager adopts them.
 */
import type { Command } from "commander";
import { Option } from "commander";
import { ATTACHING } from "../../errors.ts";
import { createLog, LOG_LEVELS, type LogLevel, logWarnings } from "../../log/log.ts";
import { runDaemon } from "../../manager/daemon.ts";
import { parseLoopbackAddress } from "../../manager/metrics/metrics-address.ts";
import { takeServiceEnvironment } from "../../manager/service/notify.ts";
import { Service } from "../../manager/service/service.ts";
import { closeInherited } from "../../sys/inherited.ts";
import { VERSION } from "../../version.ts";
import { requireRoot } from "../attach/preconditions.ts";
import { runDirOf } from "../connection.ts";
import type { CliContext } from "../context.ts";
import { renounceRights } from "../inheritance.ts";
import { formatJson } from "../output.ts";

interface Options {
  readonly auto?: true;
  readonly metricsListen?: string;
  readonly logLevel?: LogLevel;
  readonly takeOver?: true;
  readonly json?: true;
}

const HELP = `
Example:
  sudo erofs-nbd manager --run-dir /run/erofs-nbd

The log goes to stderr: JSON lines, text with priorities for journald, or text on a terminal. Similar messages are
limited to ten per ten seconds; the next line then says how many were suppressed. A manager started by a command logs
to manager.log in the run directory; at 1 MiB it is renamed to manager.log.1. SIGTERM or Ctrl-C ends the manager;
devices stay attached and are served without it. As a systemd service (see install-units) it reports readiness and
status, and feeds the watchdog; SIGHUP then replaces its workers, as upgrade --workers-only does.

Metrics for Prometheus are served on metrics.sock in the run directory, and with --metrics-listen at a loopback address:
  curl --unix-socket /run/erofs-nbd/metrics.sock http://localhost/metrics`;

export function define(command: Command, context: CliContext): void {
  command
    .addOption(
      new Option("--auto", "end with the last device; set for a manager started by a command").hideHelp(),
    )
    .addOption(
      new Option("--metrics-listen <HOST:PORT>", "also serve metrics at a loopback address").env(
        "EROFS_NBD_METRICS_LISTEN",
      ),
    )
    .addOption(
      new Option(
        "--log-level <LEVEL>",
        "least severe level that is logged (default: $EROFS_NBD_LOG, or info)",
      ).choices(LOG_LEVELS),
    )
    .option("--take-over", "make a running manager step down for this one")
    .option("--json", "print pid, version and sockets as an object, once it is ready")
    .addHelpText("after", HELP)
    .action((options: Options) => run(context, options, command));
}

async function run(context: CliContext, options: Options, command: Command): Promise<void> {
  // An environment file may contain `NAME=` for a variable that is not set.
  const isUnset = options.metricsListen === "" && command.getOptionValueSource("metricsListen") === "env";
  const metricsListen = isUnset ? undefined : options.metricsListen;
  const metricsAddress =
    metricsListen === undefined ? undefined : parseLoopbackAddress("--metrics-listen", metricsListen);
  requireRoot(ATTACHING);
  const stopped = context.interrupts.wait();
  const auto = options.auto === true;
  const runDir = runDirOf(context, "manager");
  // Only stdio is inherited on purpose. Descriptors from systemd would have to be requested (sd_listen_fds(3)).
  closeInherited(3);
  renounceRights();
  // The guardian starts the successor of a killed manager with this environment.
  if (metricsListen !== undefined) process.env["EROFS_NBD_METRICS_LISTEN"] = metricsListen;
  if (options.logLevel !== undefined) process.env["EROFS_NBD_LOG"] = options.logLevel;
  const log = createLog({ level: options.logLevel, file: runDir });
  logWarnings(log);
  // The command that started this manager may be a service itself: its notification socket is not for this process.
  const environment = takeServiceEnvironment();
  const service = auto || environment === undefined ? undefined : new Service(environment, log);
  const takeOver = options.takeOver === true;
  const daemon = await runDaemon({
    runDir,
    auto,
    log,
    metricsAddress,
    takeOver,
    service,
  });
  // A service has no terminal, so SIGHUP is free.
  const renew = (): void =>
    void daemon.manager.renewWorkers().catch((error: Error) => log.error(error.message));
  if (service !== undefined) process.on("SIGHUP", renew);
  if (options.json) {
    const { path, controlSocket, metricsSocket } = runDir;
    const address = metricsListen ?? null;
    const { pid } = process;
    await context.print(
      formatJson({
        pid,
        version: VERSION,
        runDir: path,
        controlSocket,
        metricsSocket,
        metricsListen: address,
      }),
    );
  }
  await Promise.race([daemon.ended, stopped.then(() => daemon.stop())]);
}
