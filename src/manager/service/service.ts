/**
 * A manager as a service: tells the service manager (systemd) that it is ready, its status, and that it is alive.
 *
 * Made by the command `manager` where NOTIFY_SOCKET is set, attached by daemon.ts. A beat of the watchdog is sent only
 * if the event loop turned, the pool checked its workers, and no device is stuck between two states. Otherwise the
 * beats stop and the service manager starts another manager; devices and workers stay.
 */
import { readFileSync } from "node:fs";
import type { Log } from "../../log/log.ts";
import { plural } from "../../text/plural.ts";
import type { Manager } from "../manager.ts";
import { Notifier, type ServiceEnvironment } from "./notify.ts";

/** The part of a manager that a service uses. */
export type ServedManager = Pick<
  Manager,
  "overview" | "unwatchedMs" | "isStartingWorker" | "workerPids" | "renewWorkers" | "on" | "off"
>;

/** A pool that has not checked its workers for this long is stuck. */
const MAX_UNWATCHED_MS = 5000;
/** Each step of a change of state has a much shorter deadline, except for the start of a worker, which has none. */
const MAX_SILENT_MS = 60_000;
/** How soon to check again after a withheld beat: a machine that was suspended must not lose the service. */
const LOOK_AGAIN_MS = 250;
/**
 * While the manager adopts its devices, it asks the service manager for this much more time, this often. A start has
 * no limit as long as the event loop turns (sys/start-watch.ts).
 */
const MORE_TIME_USEC = 60_000_000;
const MORE_TIME_EVERY_MS = 20_000;
/** Changes of many devices at once become one status. */
const STATUS_DELAY_MS = 200;
/** The order of states in the status: those that need attention first. */
const STATES = [
  "failed",
  "stalled",
  "reconnecting",
  "taking-over",
  "attaching",
  "detaching",
  "serving",
] as const;
/** In a state with more devices than this, they are counted but not named. */
const MAX_NAMED = 3;

export class Service {
  readonly #notifier: Notifier;
  readonly #watchdogMs: number | undefined;
  readonly #log: Log;
  #manager: ServedManager | undefined;
  #beat: NodeJS.Timeout | undefined;
  #statusSoon: NodeJS.Timeout | undefined;
  #status = "";
  #complaint: string | undefined;
  #renewals = 0;
  #starting: NodeJS.Timeout | undefined;

  /** `moreTimeEveryMs` is for tests. */
  constructor(environment: ServiceEnvironment, log: Log, moreTimeEveryMs: number = MORE_TIME_EVERY_MS) {
    this.#notifier = new Notifier(environment.socket, log);
    this.#watchdogMs = environment.watchdogMs;
    this.#log = log;
    this.#notifier.tell({ STATUS: "looking for devices of a former manager" });
    this.#starting = setInterval(
      () => this.#notifier.tell({ EXTEND_TIMEOUT_USEC: MORE_TIME_USEC }),
      moreTimeEveryMs,
    ).unref();
  }

  /** Devices are adopted and the control socket listens. */
  started(manager: ServedManager): void {
    clearInterval(this.#starting);
    this.#manager = manager;
    manager.on("event", this.#statusChanged);
    manager.on("renewing", this.#renewing);
    this.#status = describeDevices(manager);
    this.#notifier.tell({ READY: 1, STATUS: this.#status, MAINPID: process.pid });
    if (this.#watchdogMs !== undefined) this.#beatOn();
    this.#replaceForeignWorkers(manager);
  }

  /** The manager ends on purpose; its devices stay. */
  stopping(): void {
    clearInterval(this.#starting);
    clearTimeout(this.#beat);
    clearTimeout(this.#statusSoon);
    this.#manager?.off("event", this.#statusChanged);
    this.#manager?.off("renewing", this.#renewing);
    this.#manager = undefined;
    this.#notifier.tell({ STOPPING: 1, STATUS: "ending; devices are served on by their workers" });
  }

  readonly #statusChanged = (): void => {
    this.#statusSoon ??= setTimeout(() => {
      this.#statusSoon = undefined;
      this.#tellStatus();
    }, STATUS_DELAY_MS).unref();
  };

  readonly #renewing = (isUnderWay: boolean): void => {
    const before = this.#renewals;
    this.#renewals += isUnderWay ? 1 : -1;
    if (this.#renewals === 0) return this.#notifier.tell({ READY: 1, STATUS: this.#status });
    // The pool refuses a second replacement, which ends at once.
    if (before > 0) return;
    this.#notifier.tell({
      RELOADING: 1,
      MONOTONIC_USEC: String(process.hrtime.bigint() / 1000n),
      STATUS: "replacing the workers",
    });
  };

  #tellStatus(): void {
    if (this.#manager === undefined) return;
    const status = this.#complaint ?? describeDevices(this.#manager);
    if (status === this.#status) return;
    this.#status = status;
    this.#notifier.tell({ STATUS: status });
  }

  /** Twice in the watchdog's time, as sd_watchdog_enabled(3) recommends. */
  #beatOn(): void {
    const { overview = [], unwatchedMs = 0, isStartingWorker = false } = this.#manager ?? {};
    const complaint = complaintAbout(isStartingWorker ? [] : overview, unwatchedMs);
    if (complaint === undefined) this.#notifier.tell({ WATCHDOG: 1 });
    else if (this.#complaint === undefined) this.#log.error(`Watchdog beats are withheld: ${complaint}`);
    const changed = (complaint === undefined) !== (this.#complaint === undefined);
    this.#complaint = complaint;
    if (changed) this.#tellStatus();
    const pauseMs = (this.#watchdogMs ?? 0) / 2;
    const waitMs = complaint === undefined ? pauseMs : Math.min(pauseMs, LOOK_AGAIN_MS);
    this.#beat = setTimeout(() => this.#beatOn(), waitMs).unref();
  }

  /**
   * Replaces workers that a manager outside this service started. They would die with what started that manager (a
   * login session, the unit of a mount), and at a shutdown before the mounts that they serve.
   */
  #replaceForeignWorkers(manager: ServedManager): void {
    const own = cgroupOf("self");
    const strangers = manager.workerPids.filter((pid) => {
      const theirs = cgroupOf(pid);
      return theirs !== undefined && theirs !== own;
    });
    if (own === undefined || strangers.length === 0) return;
    this.#log.info("Replacing workers that were started outside this service", { workerPids: strangers });
    manager
      .renewWorkers()
      .catch((error: Error) =>
        this.#log.warn(`cannot replace workers outside this service: ${error.message}`),
      );
  }
}

/** Why no beat may be sent; undefined if one may. */
export function complaintAbout(
  devices: ReadonlyArray<{ readonly name: string; readonly state: string; readonly silentMs: number }>,
  unwatchedMs: number,
): string | undefined {
  if (unwatchedMs > MAX_UNWATCHED_MS) return `the workers have not been checked for ${seconds(unwatchedMs)}`;
  const stuck = devices.find(({ silentMs }) => silentMs > MAX_SILENT_MS);
  if (stuck === undefined) return undefined;
  return `${stuck.name} has been ${stuck.state} for ${seconds(stuck.silentMs)} without progress`;
}

/** One line: `3 devices: 1 reconnecting (nbd7), 2 serving`. */
export function describeDevices({ overview }: Pick<ServedManager, "overview">): string {
  if (overview.length === 0) return "no devices";
  const groups = STATES.flatMap((state) => {
    const names = overview.filter((device) => device.state === state).map(({ name }) => name);
    if (names.length === 0) return [];
    const named = state !== "serving" && names.length <= MAX_NAMED ? ` (${names.join(", ")})` : "";
    return [`${names.length} ${state}${named}`];
  });
  return `${plural(overview.length, "device")}: ${groups.join(", ")}`;
}

function seconds(milliseconds: number): string {
  return `${Math.round(milliseconds / 1000)} s`;
}

/** The control group of a process, as in /proc; undefined when the process has ended. */
function cgroupOf(pid: number | "self"): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return undefined;
  }
}
