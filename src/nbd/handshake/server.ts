/**
 * The server's side of the NBD handshake (fixed newstyle) as a state machine without I/O: bytes in, bytes out, and a
 * result at the end.
 *
 * The caller sends `greeting`, passes every receive to `receive()`, sends what it returns, and looks at `result`. It
 * also needs a deadline, because a client may send nothing. The state machine never throws at bytes of a client, never
 * keeps more than one option of at most MAX_OPTION_BYTES, and answers a limited number of options.
 *
 * Source: the protocol's doc/proto.md, "Fixed newstyle negotiation" and "Option types".
 */

import { ByteQueue, concatBytes } from "../byte-queue.ts";
import type { StructuredReplies } from "../request-check.ts";
import { NBD_FLAG_SEND_DF } from "../wire.ts";
import { checkExport, type NbdExport } from "./export.ts";
import { decodeInformationRequest, infosOf } from "./information.ts";
import { decodeMetaContextQuery, encodeMetaContext, isChosen, isListed } from "./meta-contexts.ts";
import {
  decodeText,
  EXPORT_NAME_ZEROES,
  encodeOptionReply,
  encodeText,
  IHAVEOPT,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
  NBDMAGIC,
  OPTION_HEADER_BYTES,
  optionName,
  quoteText,
  u16Bytes,
  u32Bytes,
  u64Bytes,
} from "./wire.ts";

/** Longest option data accepted. A client that announces more is cut off; the protocol allows that. */
export const MAX_OPTION_BYTES = 0x1_0000;

/** Options that a client may send, plus {@link OPTIONS_PER_EXPORT} for each export: enough to ask about all of them. */
export const MAX_OPTIONS = 64;

/** See {@link MAX_OPTIONS}. */
export const OPTIONS_PER_EXPORT = 4;

/** The result of a handshake. */
export type ServerHandshakeResult =
  | {
      /** The client chose an export; requests follow, and {@link ServerHandshake.remainder} holds the first of them. */
      readonly kind: "transmission";
      /** The export's own name, also when the client asked for the default one. */
      readonly exportName: string;
      readonly transmissionFlags: number;
      readonly noZeroes: boolean;
      readonly export: NbdExport;
      /** What the client has asked for beyond simple replies. */
      readonly structured: StructuredReplies | undefined;
    }
  | {
      /** Send what is left, then close the connection. */
      readonly kind: "ended";
      /** One line for the log. */
      readonly reason: string;
      /** Whether the client sent ABORT; else it broke the protocol or asked for an unknown export. */
      readonly aborted: boolean;
    };

/** One client's handshake. */
export class ServerHandshake {
  readonly #exports: readonly NbdExport[];
  readonly #offersStructured: boolean;
  readonly #queue = new ByteQueue();
  readonly #out: Uint8Array[] = [];
  #clientFlags: number | undefined;
  #optionsLeft: number;
  #isStructured = false;
  /** The export whose allocation the client wants to ask for. */
  #allocationOf: NbdExport | undefined;
  #result: ServerHandshakeResult | undefined;

  /**
   * @param exports what is offered; the empty name means the export of that name or else the first one
   * @param offersStructured whether a client may ask for structured replies
   * @throws RangeError when an export's numbers break the protocol's rules, or two exports share a name
   */
  constructor(exports: readonly NbdExport[], offersStructured = false) {
    exports.forEach(checkExport);
    if (new Set(exports.map((one) => one.name)).size !== exports.length) {
      throw new RangeError("cannot offer NBD exports: two of them have the same name");
    }
    this.#exports = exports;
    this.#offersStructured = offersStructured;
    this.#optionsLeft = MAX_OPTIONS + OPTIONS_PER_EXPORT * exports.length;
  }

  /** What the server sends first, without waiting for the client. */
  get greeting(): Uint8Array {
    return concatBytes([
      u64Bytes(NBDMAGIC),
      u64Bytes(IHAVEOPT),
      u16Bytes(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    ]);
  }

  /** Undefined until the handshake is over. */
  get result(): ServerHandshakeResult | undefined {
    return this.#result;
  }

  /** Bytes that the client sent after its last option: the beginning of the transmission phase. */
  get remainder(): Uint8Array {
    return this.result?.kind === "transmission" ? this.#queue.rest : new Uint8Array(0);
  }

  /**
   * Takes the next bytes from the client, in any split.
   *
   * @returns what to send now, possibly nothing; send it before acting on {@link result}
   * @throws Error when the handshake is already over
   */
  receive(bytes: Uint8Array): Uint8Array {
    if (this.#result !== undefined) throw new Error("cannot take handshake bytes: the handshake is over");
    this.#queue.push(bytes);
    while (this.#result === undefined && this.#step());
    return concatBytes(this.#out.splice(0));
  }

  /** Consumes one message; false when it is not complete yet. */
  #step(): boolean {
    if (this.#clientFlags === undefined) return this.#takeClientFlags();
    if (this.#queue.length < OPTION_HEADER_BYTES) return false;
    const option = this.#queue.u32(8);
    const length = this.#queue.u32(12);
    if (this.#queue.u64(0) !== IHAVEOPT) return this.#end("the client's option does not start with IHAVEOPT");
    if (length > MAX_OPTION_BYTES) {
      return this.#end(
        `the client's ${optionName(option)} announces ${length} bytes, more than ${MAX_OPTION_BYTES}`,
      );
    }
    if (this.#queue.length < OPTION_HEADER_BYTES + length) return false;
    this.#queue.take(OPTION_HEADER_BYTES);
    const data = this.#queue.take(length);
    if (this.#optionsLeft-- === 0) return this.#end("the client sends options without end");
    if (option !== NBD_OPT_EXPORT_NAME && (this.#clientFlags & NBD_FLAG_C_FIXED_NEWSTYLE) === 0) {
      return this.#end(`the client sent ${optionName(option)} without agreeing on fixed newstyle`);
    }
    this.#answer(option, data);
    return true;
  }

  #takeClientFlags(): boolean {
    if (this.#queue.length < 4) return false;
    const flags = this.#queue.u32(0);
    const unknown = flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (unknown !== 0) return this.#end(`the client set unknown flags 0x${(unknown >>> 0).toString(16)}`);
    this.#queue.take(4);
    this.#clientFlags = flags;
    return true;
  }

  #answer(option: number, data: Uint8Array): void {
    switch (option) {
      case NBD_OPT_EXPORT_NAME:
        return this.#enterByName(data);
      case NBD_OPT_ABORT:
        this.#reply(option, NBD_REP_ACK);
        this.#result = { kind: "ended", reason: "the client aborted the handshake", aborted: true };
        return;
      case NBD_OPT_LIST:
        return this.#list(data);
      case NBD_OPT_INFO:
      case NBD_OPT_GO:
        return this.#inform(option, data);
    }
    const isStructured = option === NBD_OPT_STRUCTURED_REPLY;
    const isContexts = option === NBD_OPT_LIST_META_CONTEXT || option === NBD_OPT_SET_META_CONTEXT;
    if (this.#offersStructured && isStructured) this.#agreeOnStructured(data);
    else if (this.#offersStructured && isContexts) this.#metaContexts(option, data);
    else this.#refuse(option, NBD_REP_ERR_UNSUP, `${optionName(option)} is not supported`);
  }

  /** EXPORT_NAME has no error reply: an unknown export ends the session. */
  #enterByName(data: Uint8Array): void {
    const found = this.#find(decodeText(data));
    if (found === undefined) {
      this.#end(`there is no export named ${quoteText(decodeText(data))}`);
      return;
    }
    this.#out.push(u64Bytes(BigInt(found.sizeBytes)), u16Bytes(this.#flagsOf(found)));
    if (!this.#noZeroes) this.#out.push(new Uint8Array(EXPORT_NAME_ZEROES));
    this.#enter(found);
  }

  #list(data: Uint8Array): void {
    if (data.length > 0) return this.#refuse(NBD_OPT_LIST, NBD_REP_ERR_INVALID, "LIST takes no data");
    for (const one of this.#exports) {
      const name = encodeText(one.name);
      this.#reply(NBD_OPT_LIST, NBD_REP_SERVER, [
        u32Bytes(name.length),
        name,
        encodeText(one.description ?? ""),
      ]);
    }
    this.#reply(NBD_OPT_LIST, NBD_REP_ACK);
  }

  #agreeOnStructured(data: Uint8Array): void {
    const option = NBD_OPT_STRUCTURED_REPLY;
    if (data.length > 0) return this.#refuse(option, NBD_REP_ERR_INVALID, "STRUCTURED_REPLY takes no data");
    this.#isStructured = true;
    this.#reply(option, NBD_REP_ACK);
  }

  /** A SET replaces what an earlier one has chosen, also when it is refused. */
  #metaContexts(option: number, data: Uint8Array): void {
    const isSet = option === NBD_OPT_SET_META_CONTEXT;
    if (isSet) this.#allocationOf = undefined;
    if (!this.#isStructured)
      return this.#refuse(option, NBD_REP_ERR_INVALID, "contexts need structured replies");
    const query = decodeMetaContextQuery(data);
    if (query === undefined) return this.#refuse(option, NBD_REP_ERR_INVALID, "the queries are malformed");
    const found = this.#find(query.exportName);
    if (found === undefined)
      return this.#refuse(option, NBD_REP_ERR_UNKNOWN, "there is no export of that name");
    if (isSet ? isChosen(query.queries) : isListed(query.queries)) {
      if (isSet) this.#allocationOf = found;
      this.#reply(option, NBD_REP_META_CONTEXT, [encodeMetaContext(isSet)]);
    }
    this.#reply(option, NBD_REP_ACK);
  }

  #inform(option: number, data: Uint8Array): void {
    const request = decodeInformationRequest(data);
    if ("error" in request) return this.#refuse(option, request.error, request.text);
    const found = this.#find(request.exportName);
    if (found === undefined)
      return this.#refuse(option, NBD_REP_ERR_UNKNOWN, "there is no export of that name");
    for (const info of infosOf(found, this.#flagsOf(found), request.wanted))
      this.#reply(option, NBD_REP_INFO, info);
    this.#reply(option, NBD_REP_ACK);
    if (option === NBD_OPT_GO) this.#enter(found);
  }

  get #noZeroes(): boolean {
    return ((this.#clientFlags ?? 0) & NBD_FLAG_C_NO_ZEROES) !== 0;
  }

  /** DF, "do not fragment", is offered with structured replies only. */
  #flagsOf(one: NbdExport): number {
    return one.transmissionFlags | (this.#isStructured ? NBD_FLAG_SEND_DF : 0);
  }

  #find(name: string): NbdExport | undefined {
    return this.#exports.find((one) => one.name === name) ?? (name === "" ? this.#exports[0] : undefined);
  }

  #enter(chosen: NbdExport): void {
    this.#result = {
      kind: "transmission",
      exportName: chosen.name,
      transmissionFlags: this.#flagsOf(chosen),
      noZeroes: this.#noZeroes,
      export: chosen,
      structured: this.#isStructured ? { allocation: this.#allocationOf === chosen } : undefined,
    };
  }

  #reply(option: number, type: number, data: readonly Uint8Array[] = []): void {
    this.#out.push(encodeOptionReply(option, type, concatBytes(data)));
  }

  #refuse(option: number, type: number, text: string): void {
    this.#reply(option, type, [encodeText(text)]);
  }

  #end(reason: string): false {
    this.#result = { kind: "ended", reason, aborted: false };
    return false;
  }
}
