/**
 * One device's life as a table: state × event → next state and effects. The whole policy, and nothing else.
 *
 * Pure. NetlinkDevice feeds it and carries the effects out; ARCHITECTURE.md prints it. A pair that is not in
 * the table is ignored on purpose: events are late and double by nature (three witnesses tell of one death).
 */

/** The words are those of `status`. */
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
  /** A worker is gone; its link is up, and unserved. */
  "worker-lost",
  /** A link of the current generation is dead, by whichever witness came first; or it has to be given up. */
  "link-lost",
  /** Every link is up, served, and proven. */
  "links-restored",
  /** The quick attempts are used up; slow ones go on. */
  "attempts-spent",
  /** Reads have waited for as long as the kernel holds them: they fail from now on. */
  "deadline-passed",
  /** The kernel has ended the device without us: last close after autoclear, or somebody's disconnect. */
  "device-ended",
  "detach-requested",
  /** DISCONNECT is done. */
  "disconnected",
  /** DISCONNECT was refused; the device is as it was. */
  "disconnect-refused",
] as const;
export type StateEvent = (typeof EVENTS)[number];

export type DeviceEffect =
  /** Look after the links again at once: one of them may have died unseen meanwhile. */
  | "check-links"
  /** A failover begins: note when and why, arm the deadline, mend links until each is up and served. */
  | "begin-failover"
  /** It is about a dead link from now on. */
  | "escalate"
  /** Say that nobody serves, and go on trying slowly. */
  | "announce-stall"
  /** The failover's one outcome. */
  | "report-recovered"
  | "report-failed"
  /** Nobody serves links that are up: their reads are to fail like those of dead ones. */
  | "give-links-up"
  /** Links are back after the failover was already reported as failed. */
  | "announce-revival"
  /** Stop trying to replace links. */
  | "stop-failover"
  /** Ask the kernel to disconnect. */
  | "disconnect"
  /** Let go of links, descriptors and the record: the device is no more. */
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

/** What happens now; a pair without a row changes nothing. */
export function transition(state: DeviceState, event: StateEvent): Transition {
  return TABLE[state][event] ?? { next: state, effects: IGNORED };
}
