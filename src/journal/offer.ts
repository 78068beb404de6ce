/**
 * The offer of a link to a worker: a word in the head of its journal, by which exactly one side decides.
 *
 * A worker that is inside a long read does not see that it was given a link, and reads of that link must not wait for
 * it. The manager writes the offer's number before it sends the link. The worker takes the offer before it touches the
 * link, and the manager takes it to withdraw it. Both use one compare-and-exchange, so only one of them succeeds. A
 * number is used once per link, so an old message cannot take a later offer.
 */
import { OFFER_WORD } from "./layout.ts";

/** Called by the manager before it sends the link. `memory` is the journal's. */
export function makeOffer(memory: ArrayBuffer, offer: number): void {
  Atomics.store(word(memory), 0, offer);
}

/** Whether the caller has the offer from now on: the worker that was asked, or the manager, to withdraw it. */
export function takeOffer(memory: ArrayBuffer, offer: number): boolean {
  return Atomics.compareExchange(word(memory), 0, offer, 0) === offer;
}

const word = (memory: ArrayBuffer): Int32Array => new Int32Array(memory, OFFER_WORD * 4, 1);
