/**
 * Assembles the answer to one request from datagrams: which messages belong to it and when it is complete. Pure.
 *
 * Called by socket.ts. A plain request ends with its acknowledgement (the data comes before it), a dump with
 * NLMSG_DONE. Source: net/netlink/af_netlink.c, netlink_rcv_skb and netlink_dump, 6.1–7.2.
 */

import * as C from "../constants.ts";
import { decodeVerdict, type Verdict } from "./ack.ts";
import { decodeMessages, type NetlinkMessage } from "./message.ts";

/** Collects the answer to one request. */
export class AnswerCollector {
  readonly messages: NetlinkMessage[] = [];
  /** Set once the answer is complete. */
  verdict: Verdict | undefined;
  /** The kernel reports that the listed objects changed meanwhile. */
  interrupted = false;
  /** The kernel reports that it lost messages. */
  overrun = false;
  readonly #sequence: number;
  readonly #portId: number;
  readonly #isDump: boolean;

  constructor(request: { readonly sequence: number; readonly portId: number; readonly isDump: boolean }) {
    this.#sequence = request.sequence;
    this.#portId = request.portId;
    this.#isDump = request.isDump;
  }

  /**
   * Takes one datagram; true when the answer is complete. Messages of other requests are ignored: they answer a
   * request that was given up.
   * @throws DecodeError
   */
  accept(datagram: Uint8Array): boolean {
    for (const message of decodeMessages(datagram)) {
      if (message.sequence !== this.#sequence || message.portId !== this.#portId) continue;
      if (this.#acceptOwn(message)) return true;
    }
    return false;
  }

  #acceptOwn(message: NetlinkMessage): boolean {
    if ((message.flags & C.NLM_F_DUMP_INTR) !== 0 && this.#isDump) this.interrupted = true;
    switch (message.type) {
      case C.NLMSG_NOOP:
        return false;
      case C.NLMSG_OVERRUN:
        this.overrun = true;
        return false;
      case C.NLMSG_ERROR: {
        const verdict = decodeVerdict(message);
        if (this.#isDump && verdict.errno === 0) return false;
        this.verdict = verdict;
        return true;
      }
      case C.NLMSG_DONE:
        if (!this.#isDump) return false;
        this.verdict = decodeVerdict(message);
        return true;
      default:
        this.messages.push(message);
        return false;
    }
  }
}
