/**
 * The manager's side of the offers of one link: makes and withdraws them (journal/offer.ts). Used by HeldLink.
 */
import { makeOffer, takeOffer } from "../../journal/offer.ts";

export class LinkOffer {
  #memory: ArrayBuffer | undefined;
  /** It begins anywhere: a message of a former manager must not fit an offer of this one. */
  #number = 1 + Math.floor(Math.random() * 2 ** 30);

  /** `memory` is the link's journal. */
  constructor(memory: ArrayBuffer) {
    this.#memory = memory;
  }

  /** Makes an offer for the next `serve`, and returns its number. */
  make(): number {
    this.#number += 1;
    if (this.#memory !== undefined) makeOffer(this.#memory, this.#number);
    return this.#number;
  }

  /** Withdraws the last offer. False if the worker has taken it, or the link is closed. */
  withdraw(): boolean {
    return this.#memory !== undefined && takeOffer(this.#memory, this.#number);
  }

  /** The journal may be unmapped from now on. */
  end(): void {
    this.#memory = undefined;
  }
}
