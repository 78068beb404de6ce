/**
 * A manager as a service: tells the service manager (systemd) that it is ready, how it is doing, and that it is alive.
 *
 * Made by the command `manager` where NOTIFY_SOCKET is set, attached by daemon.ts. A beat of the watchdog is a proof
 * and no habit: the event loop turned, the pool looked after its workers, and no device is stuck between two states.
 * Where one of these fails the beats stop, and the service manager starts another manager; devices and workers stay.
 */
import { readFileSync } from "node:fs";
import type { Log } from "../../log/log.ts";
import type { Manager } from "../manager.ts";
import { Notifier, type ServiceEnvironment } from "./notify.ts";

/** The part of a manager that a service tells of. */
export type ServedManager = Pick<
  Manager,
  "overview" | "unwatchedMs" | "isStartingWorker" | "workerPids" | "renewWorkers" | "on" | "off"
>;

/** A manager that has not looked after its workers for so long does nothing else either. */
const MAX_UNWATCHED_MS = 5000;
/** Every step of a change of state has a deadline well below this; but for the wait for a worker that starts, which ends by itself. */
const MAX_SILENT_MS = 60_000;
/** After a beat that was withheld: what was only late (a suspended machine) must not cost the service. */
const LOOK_AGAIN_MS = 250;
/**
 * While the manager looks for its devices, the service manager is asked for this much more time, this often: a start
 * has no limit as long as the event loop turns (start-watch.ts).
 */
const MORE_TIME_USEC = 60_000_000;
const MORE_TIME_EVERY_MS = 20_000;
/** Many devices change at once. */
const STATUS_DELAY_MS = 200;
/** The order in which states are told: what needs attention first. */
const STATES = [
  "failed",
  "stalled",
  "reconnecting",
  "taking-over",
  "attaching",
  "detaching",
  "serving",
] as const;
/** More devices than these are counted, not named. */
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

  /** Devices were adopted and the control socket listens: READY. */
  started(manager: ServedManager): void {
    clearInterval(this.#starting);
    this.#manager = manager;
    manager.on("event", this.#statusChanged);
    manager.on("renewing", this.#renewing);
    this.#status = describeDevices(manager);
    this.#notifier.tell({ READY: 1, STATUS: this.#status, MAINPID: process.pid });
    if (this.#watchdogMs !== undefined) this.#beatOn();
    this.#fetchWorkers(manager);
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
    // Another one is refused by the pool, and is over at once.
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

  /** Twice in the watchdog's time, as sd_watchdog_enabled(3) has it. */
  #beatOn(): void {
    const { overview = [], unwatchedMs = 0, isStartingWorker = false } = this.#manager ?? {};
    const complaint = complaintAbout(isStartingWorker ? [] : overview, unwatchedMs);
    if (complaint === undefined) this.#notifier.tell({ WATCHDOG: 1 });
    else if (this.#complaint === undefined) this.#log.error(`The watchdog is told nothing: ${complaint}`);
    const changed = (complaint === undefined) !== (this.#complaint === undefined);
    this.#complaint = complaint;
    if (changed) this.#tellStatus();
    const pauseMs = (this.#watchdogMs ?? 0) / 2;
    const waitMs = complaint === undefined ? pauseMs : Math.min(pauseMs, LOOK_AGAIN_MS);
    this.#beat = setTimeout(() => this.#beatOn(), waitMs).unref();
  }

  /**
   * Workers that a manager outside this service started die with whatever started it (a login session, a mount's unit),
   * and at a shutdown before the mounts that they serve. Fresh ones run here.
   */
  #fetchWorkers(manager: ServedManager): void {
    const own = cgroupOf("self");
    const strangers = manager.workerPids.filter((pid) => {
      const theirs = cgroupOf(pid);
      return theirs !== undefined && theirs !== own;
    });
    if (own === undefined || strangers.length === 0) return;
    this.#log.info("Replacing workers that were started outside this service", { workerPids: strangers });
    manager
      .renewWorkers()
      .catch((error: Error) => this.#log.warn(`Workers stay outside this service: ${error.message}`));
  }
}

/** What keeps the watchdog from being told that all is well; undefined: nothing. */
export function complaintAbout(
  devices: ReadonlyArray<{ readonly name: string; readonly state: string; readonly silentMs: number }>,
  unwatchedMs: number,
): string | undefined {
  if (unwatchedMs > MAX_UNWATCHED_MS)
    return `nobody has looked after the workers for ${seconds(unwatchedMs)}`;
  const stuck = devices.find(({ silentMs }) => silentMs > MAX_SILENT_MS);
  if (stuck === undefined) return undefined;
  return `${stuck.name} has been ${stuck.state} for ${seconds(stuck.silentMs)}, and nothing is done about it`;
}

/** «3 devices: 1 reconnecting (nbd7), 2 serving»: one line for people. */
export function describeDevices({ overview }: Pick<ServedManager, "overview">): string {
  if (overview.length === 0) return "no devices";
  const groups = STATES.flatMap((state) => {
    const names = overview.filter((device) => device.state === state).map(({ name }) => name);
    if (names.length === 0) return [];
    const named = state !== "serving" && names.length <= MAX_NAMED ? ` (${names.join(", ")})` : "";
    return [`${names.length} ${state}${named}`];
  });
  return `${overview.length} device${overview.length === 1 ? "" : "s"}: ${groups.join(", ")}`;
}

function seconds(milliseconds: number): string {
  return `${Math.round(milliseconds / 1000)} s`;
}

/** The control group that a process is in, as /proc tells it; undefined when there is none. */
function cgroupOf(pid: number | "self"): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return undefined;
  }
}
