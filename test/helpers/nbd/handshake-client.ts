/**
 * The client's side of the NBD handshake as a state machine without I/O: bytes in, bytes out, and at the end a result.
 *
 * For tests of the server, and for servers of other projects. It asks with GO and falls back to EXPORT_NAME where the
 * server knows no GO. It never throws because of what a server sent, checks every length before using it, keeps at most
 * MAX_LIST_BYTES of a list, and ends with a reason at TLS and oldstyle servers. Deadlines are the caller's.
 *
 * Source: the protocol's doc/proto.md, "Newstyle negotiation" to "Option reply types".
 */

import { ByteQueue, concatBytes } from "../../../src/nbd/byte-queue.ts";
import {
  CLISERV_MAGIC,
  decodeText,
  EXPORT_NAME_ZEROES,
  encodeOption,
  encodeText,
  GREETING_BYTES,
  IHAVEOPT,
  MAX_STRING_BYTES,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_REP_ACK,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_SERVER,
  NBDMAGIC,
  OPTION_REPLY_HEADER_BYTES,
  optionName,
  quoteText,
  replyErrorName,
  u16Bytes,
  u32Bytes,
} from "../../../src/nbd/handshake/wire.ts";
import {
  NO_FACTS,
  readInfo,
  readListEntry,
  replyFault,
  type ServerExportFacts,
} from "./handshake-replies.ts";

/** Names and descriptions accepted from LIST, and information from INFO or GO, all replies together. */
export const MAX_LIST_BYTES = 0x10_0000;

/** The client's goal. */
export type ClientGoal =
  | { readonly kind: "go"; readonly exportName: string }
  | { readonly kind: "info"; readonly exportName: string }
  | { readonly kind: "list" };

/** One line of a server's export list. */
export interface ListedExport {
  readonly name: string;
  readonly description: string;
}

/** How the handshake went; but for "transmission" send what is left, then close the connection. */
export type ClientHandshakeResult =
  | {
      /** Requests may be sent; {@link ClientHandshake.remainder} should be empty. */
      readonly kind: "transmission";
      readonly exportName: string;
      readonly noZeroes: boolean;
      readonly facts: ServerExportFacts;
    }
  | { readonly kind: "info"; readonly exportName: string; readonly facts: ServerExportFacts }
  | { readonly kind: "list"; readonly exports: readonly ListedExport[] }
  | { readonly kind: "ended"; readonly reason: string };

type Step = "greeting" | "reply" | "export-name";

/** One connection's handshake. */
export class ClientHandshake {
  readonly #goal: ClientGoal;
  readonly #queue = new ByteQueue();
  readonly #out: Uint8Array[] = [];
  readonly #listed: ListedExport[] = [];
  #step: Step = "greeting";
  #option = NBD_OPT_GO;
  #fixed = false;
  #noZeroes = false;
  #budgetBytes = MAX_LIST_BYTES;
  #facts: ServerExportFacts = NO_FACTS;
  #result: ClientHandshakeResult | undefined;

  /** @throws RangeError when the export's name is longer than the protocol allows */
  constructor(goal: ClientGoal) {
    if (goal.kind !== "list" && encodeText(goal.exportName).length > MAX_STRING_BYTES) {
      throw new RangeError(`cannot ask for an NBD export: its name is longer than ${MAX_STRING_BYTES} bytes`);
    }
    this.#goal = goal;
  }

  /** Undefined until the handshake is over. */
  get result(): ClientHandshakeResult | undefined {
    return this.#result;
  }

  /** Bytes after the handshake's end: a well-behaved server sends none before it is asked. */
  get remainder(): Uint8Array {
    return this.result?.kind === "transmission" ? this.#queue.rest : new Uint8Array(0);
  }

  /**
   * Takes the next bytes from the server, in any split; the server speaks first.
   *
   * @returns what to send now, possibly nothing; send it before acting on {@link result}
   * @throws Error when the handshake is already over: a mistake of the caller
   */
  receive(bytes: Uint8Array): Uint8Array {
    if (this.#result !== undefined) throw new Error("cannot take handshake bytes: the handshake is over");
    this.#queue.push(bytes);
    while (this.#result === undefined && this.#take());
    return concatBytes(this.#out.splice(0));
  }

  /** Consumes one message of the server; false when it is not complete yet. */
  #take(): boolean {
    switch (this.#step) {
      case "greeting":
        return this.#takeGreeting();
      case "reply":
        return this.#takeReply();
      case "export-name":
        return this.#takeExportName();
    }
  }

  #takeGreeting(): boolean {
    // Each part is judged as soon as it is there: an oldstyle or foreign server need not send 18 bytes.
    if (this.#queue.length >= 8 && this.#queue.u64(0) !== NBDMAGIC) return this.#end("it is no NBD server");
    if (this.#queue.length < 16) return false;
    if (this.#queue.u64(8) === CLISERV_MAGIC) {
      return this.#end("the server speaks the oldstyle handshake, which is not supported");
    }
    if (this.#queue.u64(8) !== IHAVEOPT)
      return this.#end("the server's greeting is neither newstyle nor oldstyle");
    if (this.#queue.length < GREETING_BYTES) return false;
    const flags = this.#queue.u16(16);
    this.#queue.take(GREETING_BYTES);
    this.#fixed = (flags & NBD_FLAG_FIXED_NEWSTYLE) !== 0;
    this.#noZeroes = (flags & NBD_FLAG_NO_ZEROES) !== 0;
    this.#out.push(
      u32Bytes((this.#fixed ? NBD_FLAG_C_FIXED_NEWSTYLE : 0) | (this.#noZeroes ? NBD_FLAG_C_NO_ZEROES : 0)),
    );
    if (this.#fixed) return this.#ask();
    return this.#askByName();
  }

  /** Sends the option that serves the goal. */
  #ask(): true {
    const goal = this.#goal;
    this.#step = "reply";
    if (goal.kind === "list") {
      this.#option = NBD_OPT_LIST;
      this.#out.push(encodeOption(NBD_OPT_LIST, new Uint8Array(0)));
      return true;
    }
    this.#option = goal.kind === "go" ? NBD_OPT_GO : NBD_OPT_INFO;
    const name = encodeText(goal.exportName);
    const wanted = [NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE].map(u16Bytes);
    this.#out.push(
      encodeOption(
        this.#option,
        concatBytes([u32Bytes(name.length), name, u16Bytes(wanted.length), ...wanted]),
      ),
    );
    return true;
  }

  /** Without fixed newstyle, or without GO, there is only EXPORT_NAME, which cannot report errors. */
  #askByName(): boolean {
    if (this.#goal.kind !== "go")
      return this.#end(`the server can only serve exports, it does not answer ${this.#goal.kind}`);
    this.#step = "export-name";
    this.#out.push(encodeOption(NBD_OPT_EXPORT_NAME, encodeText(this.#goal.exportName)));
    return true;
  }

  #takeReply(): boolean {
    if (this.#queue.length < OPTION_REPLY_HEADER_BYTES) return false;
    const type = this.#queue.u32(12);
    const length = this.#queue.u32(16);
    const fault = replyFault(this.#queue, this.#option, this.#budgetBytes);
    if (fault !== undefined) return this.#end(fault);
    if (this.#queue.length < OPTION_REPLY_HEADER_BYTES + length) return false;
    this.#queue.take(OPTION_REPLY_HEADER_BYTES);
    const data = this.#queue.take(length);
    this.#budgetBytes -= OPTION_REPLY_HEADER_BYTES + length;
    if (type >= NBD_REP_FLAG_ERROR) return this.#takeError(type, data);
    if (type === NBD_REP_ACK) return this.#takeAck();
    return this.#takeData(type, data);
  }

  #takeError(type: number, data: Uint8Array): boolean {
    if (type === NBD_REP_ERR_UNSUP && this.#option === NBD_OPT_GO) return this.#askByName();
    const text = data.length === 0 ? "" : `, saying ${quoteText(decodeText(data))}`;
    return this.#leave({
      kind: "ended",
      reason: `the server refused ${optionName(this.#option)} with ${replyErrorName(type)}${text}`,
    });
  }

  #takeData(type: number, data: Uint8Array): boolean {
    if (type === NBD_REP_SERVER && this.#option === NBD_OPT_LIST) {
      const entry = readListEntry(data);
      if (typeof entry === "string") return this.#end(entry);
      this.#listed.push(entry);
      return true;
    }
    if (type === NBD_REP_INFO && this.#option !== NBD_OPT_LIST) {
      const facts = readInfo(this.#facts, data);
      if (typeof facts === "string") return this.#end(facts);
      this.#facts = facts;
      return true;
    }
    return this.#end(`the server answered ${optionName(this.#option)} with a reply of type ${type}`);
  }

  #takeAck(): boolean {
    if (this.#goal.kind === "list") return this.#leave({ kind: "list", exports: this.#listed });
    if (this.#facts.sizeBytes < 0) return this.#end("the server did not tell the export's size");
    const { exportName } = this.#goal;
    if (this.#goal.kind === "info") return this.#leave({ kind: "info", exportName, facts: this.#facts });
    return this.#enter(this.#facts);
  }

  #takeExportName(): boolean {
    const zeroes = this.#noZeroes ? 0 : EXPORT_NAME_ZEROES;
    if (this.#queue.length < 10 + zeroes) return false;
    // The same ten bytes as in an NBD_INFO_EXPORT, whose type is 0.
    const facts = readInfo(NO_FACTS, concatBytes([u16Bytes(0), this.#queue.take(10)]));
    this.#queue.take(zeroes);
    if (typeof facts === "string" || this.#goal.kind !== "go") return this.#end(String(facts));
    this.#result = {
      kind: "transmission",
      exportName: this.#goal.exportName,
      noZeroes: this.#noZeroes,
      facts,
    };
    return false;
  }

  #enter(facts: ServerExportFacts): false {
    const exportName = this.#goal.kind === "list" ? "" : this.#goal.exportName;
    this.#result = { kind: "transmission", exportName, noZeroes: this.#noZeroes, facts };
    return false;
  }

  /** Ends with an ABORT, which the protocol requires of a client that does not continue. */
  #leave(result: ClientHandshakeResult): false {
    this.#out.push(encodeOption(NBD_OPT_ABORT, new Uint8Array(0)));
    this.#result = result;
    return false;
  }

  /** Ends at once: the server broke the protocol or speaks another one. */
  #end(reason: string): false {
    this.#result = { kind: "ended", reason };
    return false;
  }
}
