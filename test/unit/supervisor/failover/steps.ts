/** What tests of failovers make happen in the middle of one. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Taking, takenOver } from "../fake-server.ts";

/** Runs `act` in the first RECONFIGURE only. */
export function once(act: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    act();
  };
}

/** Waits until the checks after a LINK_DEAD are over: each wait is longer than the corresponding one of LinkSet. */
export async function afterRechecks(): Promise<void> {
  for (const wait of [5, 20, 60]) await sleep(wait);
}

export const WHY = "the account does not add up";
export const unsafe: Taking = async () => ({ safe: false, why: WHY });

/** A takeover that waits until the test continues it with another one, or its signal aborts. */
export function held(): {
  taking: Taking;
  begun: () => boolean;
  go: (then?: Taking) => void;
  aborted: () => boolean;
} {
  let release: ((then: Taking) => void) | undefined;
  let stopped = false;
  const taking: Taking = async (link, signal, waiting) => {
    const then = await new Promise<Taking>((resolve, reject) => {
      release = resolve;
      signal.addEventListener("abort", () => {
        stopped = true;
        reject(signal.reason);
      });
    });
    return then(link, signal, waiting);
  };
  return {
    taking,
    begun: () => release !== undefined,
    go: (then = takenOver()) => release?.(then),
    aborted: () => stopped,
  };
}
