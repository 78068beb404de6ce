/**
 * The policy of a device as a table: state × event → next state and effects.
 *
 * Pure. DeviceLife feeds it and carries out the effects; ARCHITECTURE.md prints it. A pair that is not in the table is
 * ignored on purpose: events may be late and double (a death has three witnesses).
 */

/** As `status` shows them. */
export const STATES = [
  "attaching",
  "serving",
  "taking-over",
  "reconnecting",
  "stalled",
  "failed",
  "detaching",
  "detached",
] as const;
export type DeviceState = (typeof STATES)[number];

export const EVENTS = [
  /** The kernel has accepted CONNECT, or a former manager's device has been found. */
  "connected",
  /** The attempt to connect was given up. */
  "connect-refused",
  /** A link has lost its worker and is still up. */
  "worker-lost",
  /** A link of the current generation is dead, or has to be given up. */
  "link-lost",
  /** Every link is up, served, and proven to be in use. */
  "links-restored",
  /** The quick attempts are used up; slow attempts go on. */
  "attempts-spent",
  /** Reads have waited for as long as the kernel holds them, and fail from now on. */
  "deadline-passed",
  /** The kernel has ended the device: last close after autoclear, or another program's disconnect. */
  "device-ended",
  "detach-requested",
  /** DISCONNECT is done. */
  "disconnected",
  /** DISCONNECT was refused; the device is unchanged. */
  "disconnect-refused",
] as const;
export type StateEvent = (typeof EVENTS)[number];

export type DeviceEffect =
  /** Check the links at once: one of them may have died while its death was ignored. */
  | "check-links"
  /** Begin a failover: note time and cause, arm the deadline, mend links until each is up and served. */
  | "begin-failover"
  /** The failover is about a dead link from now on. */
  | "escalate"
  /** No worker serves; slow attempts go on. */
  | "announce-stall"
  /** The outcome of the failover. */
  | "report-recovered"
  | "report-failed"
  /** Shut down links that are up and not served, so that their reads fail like those of dead ones. */
  | "give-links-up"
  /** Links are restored after the failover was reported as failed. */
  | "announce-revival"
  /** Stop trying to replace links. */
  | "stop-failover"
  /** Send DISCONNECT. */
  | "disconnect"
  /** The device is gone: release links, descriptors and the record. */
  | "release";

export interface Transition {
  readonly next: DeviceState;
  readonly effects: readonly DeviceEffect[];
}

type Row = Partial<Record<StateEvent, Transition>>;

const to = (next: DeviceState, ...effects: DeviceEffect[]): Transition => ({ next, effects });

export const TABLE: Record<DeviceState, Row> = {
  attaching: {
    connected: to("serving", "check-links"),
    "connect-refused": to("detached", "release"),
  },
  serving: {
    "worker-lost": to("taking-over", "begin-failover"),
    "link-lost": to("reconnecting", "begin-failover", "escalate"),
    "device-ended": to("detached", "release"),
    "detach-requested": to("detaching", "disconnect"),
  },
  "taking-over": {
    "link-lost": to("reconnecting", "escalate"),
    "links-restored": to("serving", "report-recovered", "check-links"),
    "attempts-spent": to("stalled", "announce-stall"),
    "deadline-passed": to("failed", "report-failed", "give-links-up"),
    "device-ended": to("detached", "stop-failover", "report-failed", "release"),
    "detach-requested": to("detaching", "stop-failover", "report-failed", "disconnect"),
  },
  reconnecting: {
    "links-restored": to("serving", "report-recovered", "check-links"),
    "attempts-spent": to("stalled", "announce-stall"),
    "deadline-passed": to("failed", "report-failed"),
    "device-ended": to("detached", "stop-failover", "report-failed", "release"),
    "detach-requested": to("detaching", "stop-failover", "report-failed", "disconnect"),
  },
  stalled: {
    "link-lost": to("stalled", "escalate"),
    "links-restored": to("serving", "report-recovered", "check-links"),
    "deadline-passed": to("failed", "report-failed", "give-links-up"),
    "device-ended": to("detached", "stop-failover", "report-failed", "release"),
    "detach-requested": to("detaching", "stop-failover", "report-failed", "disconnect"),
  },
  failed: {
    "links-restored": to("serving", "announce-revival", "check-links"),
    "device-ended": to("detached", "stop-failover", "release"),
    "detach-requested": to("detaching", "stop-failover", "disconnect"),
  },
  detaching: {
    disconnected: to("detached", "release"),
    "device-ended": to("detached", "release"),
    "disconnect-refused": to("serving", "check-links"),
  },
  detached: {},
};

const IGNORED: readonly DeviceEffect[] = [];

/** The transition for a pair; one that is not in the table changes nothing. */
export function transition(state: DeviceState, event: StateEvent): Transition {
  return TABLE[state][event] ?? { next: state, effects: IGNORED };
}
