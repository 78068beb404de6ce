/**
 * The reply that a former worker had begun when it died or handed the link over: it is finished before anything else
 * leaves, with the same bytes, from the byte at which the former worker stopped.
 *
 * Called once by ServedLink.resume. A part of the reply has left, so an error can no longer be the answer: if the rest
 * cannot be read, the link ends.
 */
import type { Journal } from "../journal/journal.ts";
import { encodeReplyInto, newRequest, SIMPLE_REPLY_BYTES } from "../nbd/wire.ts";
import { readSteadily } from "../source/source.ts";
import type { LinkContext } from "./link-context.ts";
import type { JournaledReplies } from "./replies/journaled-replies.ts";

/** `goOn` is called after a rest that had to be read asynchronously; until then the link answers nothing. */
export function resumeReply(link: LinkContext, goOn: () => void): void {
  sendOrEnd(link, () => sendRest(link, goOn));
}

/** Returns 0 or -errno. @throws SourceError */
function sendRest(link: LinkContext, goOn: () => void): number {
  const journal = link.journal as Journal;
  const replies = link.replies as JournaledReplies;
  const { batch } = journal;
  if (batch.phase === "idle" || batch.committedBytes === batch.totalBytes) return replies.resume(undefined);
  const request = newRequest();
  journal.requestIn(journal.entriesIn("sending")[0] as number, request);
  const { offsetBytes, lengthBytes, cookieHigh, cookieLow } = request;
  const header = new Uint8Array(SIMPLE_REPLY_BYTES);
  encodeReplyInto(header, 0, 0, cookieHigh, cookieLow);
  const extent = link.copyOnly ? undefined : link.source.extent(offsetBytes, lengthBytes);
  if (extent !== undefined) return replies.resume({ header, data: extent, lengthBytes });
  const reply = new Uint8Array(SIMPLE_REPLY_BYTES + lengthBytes);
  reply.set(header);
  const data = reply.subarray(SIMPLE_REPLY_BYTES);
  let reading: Promise<void> | undefined;
  readSteadily(() => {
    reading = link.source.read(data, offsetBytes) ?? undefined;
    if (reading === undefined) link.source.verify();
  });
  const resume = (): number => replies.resume({ header, data: reply, lengthBytes });
  if (reading === undefined) return resume();
  waitForRest(link, reading, resume, goOn);
  return 0;
}

function waitForRest(
  link: LinkContext,
  reading: Promise<void>,
  resume: () => number,
  goOn: () => void,
): void {
  link.isResuming = true;
  link.pump.asynchronousStarted();
  const finish = (send: () => number): void => {
    link.pump.asynchronousEnded();
    link.isResuming = false;
    sendOrEnd(link, send);
    if (link.isOpen) goOn();
  };
  reading.then(
    () => finish(resume),
    (error: unknown) =>
      finish(() => {
        throw error;
      }),
  );
}

function sendOrEnd(link: LinkContext, send: () => number): void {
  if (!link.isOpen) return;
  try {
    link.sent(send());
  } catch (error) {
    link.endInsideReply(error);
  }
}
