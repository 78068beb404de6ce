/**
 * NetlinkSocket: requests to the kernel, one at a time, each answered or failed exactly once.
 *
 * Used by generic.ts. Never blocks the event loop: the send, inside which the driver's handler runs, happens on a pool
 * thread. A request that was sent cannot be cancelled; `onStuck` reports one that takes long. Multicast events have a
 * socket of their own, see events.ts.
 */
import { constants } from "node:os";
import * as C from "../constants.ts";
import { SyscallError } from "../errors.ts";
import { openKernelTransport } from "../transport/kernel-transport.ts";
import type { NetlinkTransport, ReceivedDatagram } from "../transport/transport.ts";
import { encodeMessage, type NetlinkMessage } from "../wire/message.ts";
import { type TraceSink, traceDatagram, traceSinkFromEnvironment } from "../wire/trace.ts";
import { AnswerCollector } from "../wire/transaction.ts";
import { answerLost, type RequestLabel, refusal, requestError, wrapFailure } from "./request.ts";

/** A command that stays inside the kernel for long, or has returned after it was reported. */
export interface StuckReport {
  /** The command's name without prefix: "DISCONNECT". */
  readonly command: string;
  /** What is being done: "disconnect nbd3". */
  readonly purpose: string;
  readonly deviceIndex?: number | undefined;
  readonly elapsedMs: number;
  /** False when the limit passed; true when the command returned after all (its promise settles next). */
  readonly returned: boolean;
}

/** Settings of a {@link NetlinkSocket}. */
export interface NetlinkSocketOptions {
  /** Where datagrams go; the kernel by default. The socket owns and closes it. */
  readonly transport?: NetlinkTransport | undefined;
  /** How long to wait for an answer after the send has returned; 5,000 ms by default. The send itself has no limit. */
  readonly answerDeadlineMs?: number | undefined;
  /** Report a command that has been inside the kernel for longer than this; 5,000 ms by default. */
  readonly stuckAfterMs?: number | undefined;
  /** Called once when a command is stuck, and once when such a command has returned. */
  readonly onStuck?: ((report: StuckReport) => void) | undefined;
  /** Called with the kernel's text on a request that succeeded. */
  readonly onWarning?: ((warning: string, label: RequestLabel) => void) | undefined;
  /** Receives the traffic in words; by default stderr when EROFS_NBD_DEBUG contains "netlink". */
  readonly trace?: TraceSink | undefined;
}

/** A request before it has a sequence number. */
export interface NetlinkRequest {
  /** The message type: for generic netlink, the family's id. */
  readonly type: number;
  readonly payload: Uint8Array;
  /** Ask for all objects (NLM_F_DUMP). */
  readonly dump?: boolean | undefined;
  readonly label: RequestLabel;
}

/** A successful answer. */
export interface NetlinkAnswer {
  /** The data messages, without the acknowledgement. */
  readonly messages: readonly NetlinkMessage[];
  /** The kernel's text on success, if it sent one. */
  readonly warning?: string;
}

const DEFAULT_ANSWER_DEADLINE_MS = 5_000;
const DEFAULT_STUCK_AFTER_MS = 5_000;

/** The label of an error that happens before there is a request. */
const OPENING: RequestLabel = { purpose: "open a netlink socket", command: "OPEN" };

function ignore(): void {}

/** Opens a transport, turning a failed system call into a {@link NetlinkError} with a hint. */
export function openTransportOrThrow(open: () => NetlinkTransport): NetlinkTransport {
  try {
    return open();
  } catch (error) {
    throw wrapFailure(OPENING, error);
  }
}

/** A netlink socket for requests. */
export class NetlinkSocket {
  readonly #transport: NetlinkTransport;
  readonly #options: NetlinkSocketOptions;
  readonly #trace: TraceSink | undefined;
  /** Rejects the promises of requests that wait or run, when the socket is closed under them. */
  readonly #rejectors = new Map<RequestLabel, (error: Error) => void>();
  #sequence = 1 + Math.floor(Math.random() * 0x7fff_fffe);
  #tail: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;
  #wake: (() => void) | undefined;

  /** @throws NetlinkError when no socket can be opened */
  constructor(options: NetlinkSocketOptions = {}) {
    this.#options = options;
    this.#trace = options.trace ?? traceSinkFromEnvironment();
    this.#transport = options.transport ?? openTransportOrThrow(() => openKernelTransport());
  }

  /**
   * Sends one request, with NLM_F_ACK always, and resolves with its answer. Requests run one after the other.
   *
   * @throws NetlinkError (ERR_NETLINK_DUMP_INTERRUPTED only for a dump)
   */
  request(request: NetlinkRequest): Promise<NetlinkAnswer> {
    if (this.#closed !== undefined) return Promise.reject(this.#closedError(request.label));
    const run = this.#tail.then(() => this.#perform(request));
    this.#tail = run.then(ignore, ignore);
    const key = { ...request.label };
    return new Promise<NetlinkAnswer>((resolve, reject) => {
      this.#rejectors.set(key, reject);
      run.then(resolve, reject);
    }).finally(() => this.#rejectors.delete(key));
  }

  /**
   * Rejects what waits or runs with ERR_NETLINK_CLOSED and releases the socket. Resolves when the descriptor is closed,
   * which is not before a send that is inside the kernel has come back.
   */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      this.#closed = this.#tail.then(() => this.#transport.close());
      for (const [label, reject] of this.#rejectors) reject(this.#closedError(label));
      this.#wake?.();
    }
    return this.#closed;
  }

  async #perform(request: NetlinkRequest): Promise<NetlinkAnswer> {
    const { label } = request;
    if (this.#closed !== undefined) throw this.#closedError(label);
    const sequence = this.#nextSequence();
    const flags = C.NLM_F_REQUEST | C.NLM_F_ACK | (request.dump === true ? C.NLM_F_DUMP : 0);
    const { portId } = this.#transport;
    const bytes = encodeMessage({ type: request.type, flags, sequence, portId, payload: request.payload });
    try {
      traceDatagram(this.#trace, ">", bytes, label.schema);
      await this.#send(bytes, label);
      const answer = await this.#collect(request, sequence);
      const verdict = answer.verdict ?? { errno: 0 };
      if (verdict.errno !== 0) throw refusal(label, verdict, { bytes, sequence });
      if (answer.interrupted) {
        const reason = "the listed objects changed meanwhile";
        throw requestError(label, { code: "ERR_NETLINK_DUMP_INTERRUPTED", origin: "ack", reason, sequence });
      }
      if (verdict.kernelMessage === undefined) return { messages: answer.messages };
      this.#options.onWarning?.(verdict.kernelMessage, label);
      return { messages: answer.messages, warning: verdict.kernelMessage };
    } catch (error) {
      throw wrapFailure(label, error, sequence);
    }
  }

  /** The send, watched. EINTR means that the kernel took nothing, so the same bytes may go again. */
  async #send(bytes: Uint8Array, label: RequestLabel): Promise<void> {
    const { onStuck, stuckAfterMs = DEFAULT_STUCK_AFTER_MS } = this.#options;
    const startedMs = performance.now();
    let reported = false;
    const report = (returned: boolean): void => {
      reported = true;
      const { command, purpose, deviceIndex } = label;
      onStuck?.({ command, purpose, deviceIndex, elapsedMs: performance.now() - startedMs, returned });
    };
    const timer = setTimeout(() => report(false), stuckAfterMs);
    timer.unref();
    try {
      for (;;) {
        try {
          return await this.#transport.send(bytes);
        } catch (error) {
          if (!(error instanceof SyscallError) || error.errno !== constants.errno.EINTR) throw error;
        }
      }
    } finally {
      clearTimeout(timer);
      if (reported) report(true);
    }
  }

  async #collect(request: NetlinkRequest, sequence: number): Promise<AnswerCollector> {
    const { label, dump = false } = request;
    const deadlineMs = performance.now() + (this.#options.answerDeadlineMs ?? DEFAULT_ANSWER_DEADLINE_MS);
    const collector = new AnswerCollector({ sequence, portId: this.#transport.portId, isDump: dump });
    let isLost = false;
    for (;;) {
      if (this.#closed !== undefined) throw this.#closedError(label);
      if (performance.now() > deadlineMs) throw this.#timeoutError(label, sequence);
      const received = await this.#receive(dump);
      if (received === "lost") {
        // Continue reading: queued messages must not be taken for the answer to the next request.
        isLost = true;
      } else if (received === undefined) {
        if (isLost) throw answerLost(label, sequence);
        if (!(await this.#waitReadable(deadlineMs))) throw this.#timeoutError(label, sequence);
      } else if (received.senderPortId === 0) {
        traceDatagram(this.#trace, "<", received.bytes, label.schema);
        if (received.truncated) isLost = true;
        else if (collector.accept(received.bytes)) break;
      }
    }
    if (isLost || collector.overrun) throw answerLost(label, sequence);
    return collector;
  }

  /** Receiving during a dump runs the family's dump handler, which may wait for the family's lock: off the loop. */
  async #receive(dump: boolean): Promise<ReceivedDatagram | "lost" | undefined> {
    for (;;) {
      try {
        return dump ? await this.#transport.receiveOffLoop() : this.#transport.receive();
      } catch (error) {
        if (!(error instanceof SyscallError)) throw error;
        if (error.errno === constants.errno.ENOBUFS) return "lost";
        if (error.errno !== constants.errno.EINTR) throw error;
      }
    }
  }

  /** True when there may be a datagram, false when the deadline has passed. Also ends when the socket is closed. */
  #waitReadable(deadlineMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const finish = (readable: boolean): void => {
        clearTimeout(timer);
        watch.stop();
        this.#wake = undefined;
        resolve(readable);
      };
      const timer = setTimeout(() => finish(false), Math.max(0, deadlineMs - performance.now()));
      const watch = this.#transport.watch(() => finish(true), true);
      this.#wake = () => finish(true);
    });
  }

  /** 1 to 2^32-1: the kernel uses 0 for messages that were not requested. */
  #nextSequence(): number {
    this.#sequence = this.#sequence === 0xffff_ffff ? 1 : this.#sequence + 1;
    return this.#sequence;
  }

  #timeoutError(label: RequestLabel, sequence: number): Error {
    const reason = "the kernel took the request but gave no complete answer in time";
    return requestError(label, { code: "ERR_NETLINK_TIMEOUT", origin: "timeout", reason, sequence });
  }

  #closedError(label: RequestLabel): Error {
    return requestError(label, {
      code: "ERR_NETLINK_CLOSED",
      origin: "closed",
      reason: "the client was closed",
    });
  }
}
