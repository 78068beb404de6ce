/** Settles the journal of a link with what the kernel says of its socket and its pipe. Used by HeldLink. */
import type { Sample } from "../../journal/account.ts";
import type { Journal } from "../../journal/journal.ts";
import { wholeRequests } from "../../journal/layout.ts";
import { type Settlement, settle } from "../../journal/recovery.ts";
import type { LinkRequest } from "../../supervisor/ports.ts";
import { unreadBytes, unsentBytes } from "../../sys/libc/sockets.ts";

/** Timeout for reconciling in-flight requests after a crash. */
const SETTLE_TIMEOUT_MS = 1000;

export function settleLink(
  journal: Journal,
  serverFd: number,
  pipeFd: number,
  { counted, inFlight }: LinkRequest,
): Promise<Settlement> {
  const witness = {
    counted,
    pipeBytes: () => unreadBytes(pipeFd),
    sample: () => sampleLink(serverFd, inFlight),
  };
  return settle(journal, witness, SETTLE_TIMEOUT_MS);
}

/** Whole requests that are unread in a link's socket. */
export const unreadRequests = (serverFd: number): number => wholeRequests(unreadBytes(serverFd));

/** Samples unread requests before requests in flight; see account.ts. */
function sampleLink(serverFd: number, countInFlight: LinkRequest["inFlight"]): Sample | undefined {
  const unread = unreadRequests(serverFd);
  const inFlight = countInFlight();
  if (inFlight === undefined) return undefined;
  return { inFlight, unread, allRead: unsentBytes(serverFd) === 0 };
}
