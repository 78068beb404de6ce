/**
 * What each kind of fault does: prepared with the device's present status, injected a moment later.
 *
 * The preparation finds the victims and the expected outcome. The injection checks first that the victims are still the
 * same processes. Nothing here waits for an outcome, and only processes that `status` names are signalled.
 */
import type { DeviceStatus } from "../../control/protocol.ts";
import { type Expectation, expectationOf } from "../accounting.ts";
import type { DeviceWatch } from "../device-watch.ts";
import type { FaultKind } from "../run.ts";
import type { PlannedFault } from "../schedule.ts";
import { chooseWorker, gone, identify, type Victims } from "./victims.ts";

/** A killed process has ended by then, unless it waits in the kernel. */
const DEATH_DEADLINE_MS = 10_000;

export interface AimedFault {
  readonly kind: FaultKind;
  /** For example `SIGKILL to worker 4712`. */
  readonly label: string;
  readonly expected: Expectation;
  /** Another manager comes after it. */
  readonly endsManager: boolean;
  /**
   * Injects the fault. Returns how long reads stood still, if that is known at once.
   * @throws ErofsNbdError when a victim has ended by itself meanwhile
   */
  fire(): Promise<number | undefined>;
}

/** Replaces manager and workers as planned. Resolves with the longest stall in milliseconds. */
export type Upgrade = () => Promise<number>;

/** @throws ErofsNbdError when the device has no live link, or a victim is gone already */
export function aim(
  { kind, pick }: PlannedFault,
  device: DeviceStatus,
  watch: DeviceWatch,
  victims: Victims,
  upgrade: Upgrade,
): AimedFault {
  const worker = chooseWorker(device, pick);
  const live = device.links.filter((link) => link.state === "up").length;
  const made = (label: string, links: number, act: () => Promise<number | undefined>): AimedFault => {
    const endsManager = kind === "manager" || kind === "both" || kind === "upgrade";
    return { kind, label, expected: expectationOf(kind, links), endsManager, fire: act };
  };
  switch (kind) {
    case "worker":
    case "hang": {
      const victim = identify(worker.pid, "worker");
      const signal = kind === "worker" ? "SIGKILL" : "SIGSTOP";
      return made(`${signal} to worker ${victim.pid}`, worker.links, async () => {
        victims.signal(victim, signal);
        return undefined;
      });
    }
    case "link": {
      const what = live === 1 ? "the link" : `all ${live} links`;
      return made(`${what} of ${device.device} cut`, live, async () => {
        await watch.cutLinks(device.index ?? -1);
        return undefined;
      });
    }
    case "manager": {
      const victim = identify(device.managerPid, "manager");
      return made(`SIGKILL to manager ${victim.pid}`, live, async () => {
        victims.signal(victim, "SIGKILL");
        await gone(victim, DEATH_DEADLINE_MS);
        watch.disconnect();
        return undefined;
      });
    }
    case "both": {
      const manager = identify(device.managerPid, "manager");
      const victim = identify(worker.pid, "worker");
      // The manager first: it must not see its worker die, or it might still do something about it.
      return made(`SIGKILL to manager ${manager.pid} and worker ${victim.pid}`, live, async () => {
        victims.signal(manager, "SIGKILL");
        victims.signal(victim, "SIGKILL");
        await Promise.all([gone(manager, DEATH_DEADLINE_MS), gone(victim, DEATH_DEADLINE_MS)]);
        watch.disconnect();
        return undefined;
      });
    }
    case "upgrade":
      return made("upgrade of manager and workers", live, async () => {
        const stallMs = await upgrade();
        watch.disconnect();
        return stallMs;
      });
  }
}
