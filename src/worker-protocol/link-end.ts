/**
 * Why a link has ended, and the words for it. Shared by the loop, the server and the manager's pool; no code of
 * theirs is needed to talk about it.
 */

/** Only `disconnect` is an end that the peer wished for. */
export type LinkEnd =
  | { readonly kind: "disconnect" | "end-of-file" | "closed" }
  | { readonly kind: "socket-error" | "protocol-error" | "source-error"; readonly message: string };

/** What a link has done since it began. */
export interface LinkCounters {
  requests: number;
  readBytes: number;
  readErrors: number;
}

export const NO_COUNTERS: Readonly<LinkCounters> = { requests: 0, readBytes: 0, readErrors: 0 };

const WORDS: Record<LinkEnd["kind"], string> = {
  disconnect: "the peer disconnected",
  "end-of-file": "its socket was closed",
  closed: "it was given up",
  "socket-error": "its socket failed",
  "protocol-error": "the peer broke the protocol",
  "source-error": "the image failed inside a reply",
};

/** One clause for logs and outcomes. */
export function describeEnd(end: LinkEnd): string {
  return "message" in end ? `${WORDS[end.kind]} (${end.message})` : WORDS[end.kind];
}
