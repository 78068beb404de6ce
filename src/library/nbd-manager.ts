/**
 * A manager inside of a program, for programs that need no separate daemon.
 *
 * It has a run directory of its own, which `erofs-nbd --run-dir DIR status` and the other commands can use. Workers are
 * separate processes. If the program dies, its devices are still served by them, and the next NbdManager with the same
 * directory adopts them. `start` loads the manager.
 */
import { resolve } from "node:path";
import { EventEmitter } from "eventemitter3";
import type { ControlClient } from "../control/client.ts";
import { ControlError } from "../control/fault.ts";
import type { DeviceEvent } from "../control/protocol.ts";
import { Session } from "../control/session.ts";
import { ErofsNbdError, invalidArgument } from "../errors.ts";
import type { Log } from "../log/log.ts";
import type { Daemon } from "../manager/daemon.ts";
import { attachThrough } from "./attach.ts";
import type { AttachedDevice } from "./attached-device.ts";
import { type DeviceTarget, firstOf, lookThrough } from "./find.ts";
import { checkOptions, DIRECTORY, type OptionKind } from "./option-checks.ts";
import { type AttachOptions, type AttachSource, toAttachParams, toTargetText } from "./options.ts";
import { asLog } from "./program-log.ts";

export interface NbdManagerOptions {
  /** A directory for this manager only. It is created with mode 0700 if it does not exist. */
  readonly runDir: string;
  /**
   * Receives the log, line by line; no log by default. Called with a message and fields, as console's functions are; a
   * pino or bunyan logger gets them in its own order.
   */
  readonly log?: Log;
}

export interface NbdManagerEvents {
  /** Every event of any of its devices, as `erofs-nbd status --watch --json` prints it. */
  event: (event: DeviceEvent) => void;
}

const SILENT: Log = { info: () => {}, warn: () => {}, error: () => {} };

const LOG: OptionKind = {
  expected: "an object with info, warn and error",
  fits: (value) =>
    ["info", "warn", "error"].every(
      (name) => typeof (value as Record<string, unknown>)?.[name] === "function",
    ),
};

interface Running {
  readonly daemon: Daemon;
  readonly session: Session;
}

/**
 * @example
 * const manager = new NbdManager({ runDir: "/run/my-program" });
 * await manager.start();
 * const device = await manager.attach("image.erofs");
 * await manager.stop({ detach: true });
 */
export class NbdManager extends EventEmitter<NbdManagerEvents> {
  readonly #runDir: string;
  readonly #log: Log;
  #running: Running | undefined;
  #starting = false;

  /** @throws ErofsNbdError ERR_BAD_ARGUMENT */
  constructor(options: NbdManagerOptions) {
    super();
    checkOptions(options, { runDir: DIRECTORY, log: LOG });
    const { runDir, log = SILENT } = options;
    if (runDir === undefined) throw invalidArgument("runDir", "undefined", DIRECTORY.expected);
    this.#runDir = resolve(runDir);
    this.#log = asLog(log);
  }

  /**
   * Becomes the manager of the run directory, starts workers, and adopts devices that a former manager has left.
   * @throws ErofsNbdError ERR_RUN_DIR; ERR_CONTROL if another manager uses the directory
   */
  async start(): Promise<void> {
    if (this.#running !== undefined || this.#starting)
      throw new ErofsNbdError("ERR_BAD_ARGUMENT", "cannot start the manager: it was started already");
    this.#starting = true;
    try {
      const [{ runDaemon }, { chooseRunDir }, { ControlClient: Client }] = await Promise.all([
        import("../manager/daemon.ts"),
        import("../control/run-dir.ts"),
        import("../control/client.ts"),
      ]);
      const runDir = chooseRunDir(this.#runDir, process.env, "manager");
      const daemon = await runDaemon({
        runDir,
        auto: false,
        log: this.#log,
        replaceable: false,
        isGuest: true,
      });
      const find = (): Promise<ControlClient | undefined> => Client.connect(runDir);
      const reach = async (): Promise<ControlClient> => {
        const client = await find();
        if (client !== undefined) return client;
        throw new ErofsNbdError("ERR_CONTROL", "cannot talk to the manager in this process: it has ended");
      };
      const session = new Session(reach, { afterLoss: { find, mayStart: () => false } });
      session.on("event", (event) => this.emit("event", event));
      this.#running = { daemon, session };
      await session.request("hello", {});
    } finally {
      this.#starting = false;
    }
  }

  /** Like {@link attach}, through this manager. @throws as attach does */
  async attach(source: AttachSource, options: AttachOptions = {}): Promise<AttachedDevice> {
    const { session } = this.#started("attach");
    return attachThrough(session, toAttachParams(source, options), () => {}, options.signal);
  }

  /** One of its devices, which may have been attached by a former run of the program. See {@link find}. */
  async find(target: DeviceTarget): Promise<AttachedDevice | undefined> {
    const { session } = this.#started("find a device");
    const { readTarget } = await import("../control/target.ts");
    return firstOf(await lookThrough(session, await readTarget(toTargetText(target)), () => {}));
  }

  /** All of its devices, ordered by index. */
  async list(): Promise<AttachedDevice[]> {
    return lookThrough(this.#started("list devices").session, null, () => {});
  }

  /**
   * Ends the manager. Without `detach` its devices stay attached, served by their workers until the next manager of
   * this directory starts. The program should end then, because supervision of the devices in this process cannot be
   * stopped.
   * @throws ErofsNbdError ERR_DEVICE_MOUNTED with `detach` while a device is mounted: the manager then goes on
   */
  async stop({ detach = false, force = false }: StopOptions = {}): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    if (detach) {
      const { results } = await running.session.request("detach", { targets: [], all: true, force });
      const failed = results.find(({ error }) => error !== null)?.error;
      if (failed) throw new ControlError(failed);
    }
    this.#running = undefined;
    running.session.close();
    await running.daemon.stop();
  }

  /** `await using manager = …` detaches all devices and ends. @throws as `stop` */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop({ detach: true });
  }

  #started(act: string): Running {
    if (this.#running !== undefined) return this.#running;
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot ${act}: the manager is not running`, {
      hint: "call start() first",
    });
  }
}

export interface StopOptions {
  /** Detach all devices first. */
  readonly detach?: boolean;
  /** Detach mounted devices, too: the mounts get I/O errors. */
  readonly force?: boolean;
}
