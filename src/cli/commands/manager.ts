/**
 * `manager`: the daemon in this process, until a signal; what a service unit starts, and what a first attach starts.
 *
 * Its devices outlive it: workers serve on, and the next manager takes over.
 */
import type { Command } from "commander";
import { Option } from "commander";
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

Its log goes to stderr: JSON lines, text with priorities for the journal, or text on a terminal. Of lines that differ in figures alone,
ten are written in ten seconds, and one that says how many more there were. An automatic manager's log is manager.log in the run
directory; at 1 MiB it becomes manager.log.1. SIGTERM or Ctrl-C ends it; devices stay attached and are served on without it.
As a service of systemd (see install-units) it says when it is ready, how its devices are, and that it is alive; SIGHUP
replaces its workers then, as «upgrade --workers-only» does.

Metrics for Prometheus are at metrics.sock in the run directory, and with --metrics-listen at a loopback address:
  curl --unix-socket /run/erofs-nbd/metrics.sock http://localhost/metrics`;

export function define(command: Command, context: CliContext): void {
  command
    .addOption(
      new Option("--auto", "end with the last device: for a manager that a command started").hideHelp(),
    )
    .addOption(
      new Option("--metrics-listen <HOST:PORT>", "offer metrics at a loopback address, too").env(
        "EROFS_NBD_METRICS_LISTEN",
      ),
    )
    .addOption(
      new Option(
        "--log-level <LEVEL>",
        "what is below it is not logged (default: $EROFS_NBD_LOG, or info)",
      ).choices(LOG_LEVELS),
    )
    .option("--take-over", "a manager that runs there already steps down for this one")
    .option("--json", "print who and where it is, once it is ready, as an object")
    .addHelpText("after", HELP)
    .action((options: Options) => run(context, options, command));
}

async function run(context: CliContext, options: Options, command: Command): Promise<void> {
  // An environment file has «NAME=» for what is not set.
  const isUnset = options.metricsListen === "" && command.getOptionValueSource("metricsListen") === "env";
  const metricsListen = isUnset ? undefined : options.metricsListen;
  const metricsAddress =
    metricsListen === undefined ? undefined : parseLoopbackAddress("--metrics-listen", metricsListen);
  requireRoot();
  const stopped = context.interrupts.wait();
  const auto = options.auto === true;
  const runDir = runDirOf(context, "manager");
  // Nothing is given to us on purpose but stdio: systemd's own descriptors would have to be asked for (sd_listen_fds(3)).
  closeInherited(3);
  renounceRights();
  // For the manager that comes after this one when it is killed: the guardian starts it in our environment.
  if (metricsListen !== undefined) process.env["EROFS_NBD_METRICS_LISTEN"] = metricsListen;
  if (options.logLevel !== undefined) process.env["EROFS_NBD_LOG"] = options.logLevel;
  const log = createLog({ level: options.logLevel, file: runDir });
  logWarnings(log);
  // A command that started us may be a service itself: what it was told is not for us, and not for our workers.
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
  // A service has no terminal that could hang up.
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
