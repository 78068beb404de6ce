/**
 * Structured replies and metadata contexts in the server's handshake, against bytes written out by hand.
 */
import { describe, expect, it } from "vitest";
import { readOnlyExport } from "../../../../src/nbd/handshake/export.ts";
import { ServerHandshake } from "../../../../src/nbd/handshake/server.ts";
import {
  bytewise,
  feedHandshake,
  hexBytes,
  hexOption as option,
  hexReply as reply,
  hexString as text,
  hexU32 as u32,
  uncut,
} from "../../../helpers/nbd/handshake-pair.ts";

const fixed = "00000003";
const query = (name: string, ...contexts: string[]): string =>
  [text(name), u32(contexts.length), ...contexts.map(text)].join(" ");

const [EXPORT_NAME, GO, STRUCTURED, LIST_META, SET_META] = [1, 7, 8, 9, 10] as const;
const [ACK, META] = ["00000001", "00000004"];
const [INVALID, UNKNOWN] = ["80000003", "80000006"];

function start(): ServerHandshake {
  return new ServerHandshake([readOnlyExport("image", 4096), readOnlyExport("other", 512)], true);
}

const feed = (server: ServerHandshake, ...options: string[]): Uint8Array =>
  feedHandshake(server, hexBytes([fixed, ...options].join("")), uncut);

/** The types of all option replies. */
function replyTypes(bytes: Uint8Array): string[] {
  const all = Buffer.from(bytes);
  const types: string[] = [];
  for (let at = 0; at < all.length; at += 20 + all.readUInt32BE(at + 16))
    types.push(all.toString("hex", at + 12, at + 16));
  return types;
}

describe("structured replies in the handshake", () => {
  it.each([
    ["uncut", uncut],
    ["byte by byte", bytewise],
  ])("are agreed on together with base:allocation, and DF is offered, %s", (_, cut) => {
    const server = start();
    const questions = [
      fixed,
      option(STRUCTURED),
      option(LIST_META, query("image", "base:")),
      option(SET_META, query("image", "base:allocation", "qemu:dirty-bitmap:x")),
      option(GO, `${text("image")} 0000`),
    ];
    const expected = [
      reply(STRUCTURED, ACK),
      reply(LIST_META, META, "00000000 'base:allocation'"),
      reply(LIST_META, ACK),
      reply(SET_META, META, "00000001 'base:allocation'"),
      reply(SET_META, ACK),
      reply(GO, "00000003", "0000 0000000000001000 0183"),
      reply(GO, ACK),
    ];
    const answers = feedHandshake(server, hexBytes(questions.join("")), cut);
    expect(Buffer.from(answers).toString("hex")).toBe(
      Buffer.from(hexBytes(expected.join(""))).toString("hex"),
    );
    expect(server.result).toMatchObject({ transmissionFlags: 0x183, structured: { allocation: true } });
  });

  it("come without DF and without contexts to a client that does not ask", () => {
    const server = start();
    feed(server, option(GO, `${text("image")} 0000`));
    expect(server.result).toMatchObject({ transmissionFlags: 0x103, structured: undefined });
  });

  it("hold for EXPORT_NAME, too", () => {
    const server = start();
    feed(server, option(STRUCTURED), option(EXPORT_NAME, "'image'"));
    expect(server.result).toMatchObject({ transmissionFlags: 0x183, structured: { allocation: false } });
  });

  it.each([
    ["no query lists everything", LIST_META, query("image"), [META, ACK]],
    ["another namespace lists nothing", LIST_META, query("image", "qemu:"), [ACK]],
    ["an unknown context is not chosen", SET_META, query("image", "base:other", "base:"), [ACK]],
    ["no query chooses nothing", SET_META, query("image"), [ACK]],
    ["the empty name is the first export", SET_META, query("", "base:allocation"), [META, ACK]],
    ["an unknown export", SET_META, query("tape", "base:allocation"), [UNKNOWN]],
    ["data that ends early", SET_META, `${text("image")} ${u32(2)} ${text("base:allocation")}`, [INVALID]],
    ["a billion queries", LIST_META, `${text("image")} 3b9aca00`, [INVALID]],
    ["data that goes on", SET_META, `${query("image", "base:allocation")} 00`, [INVALID]],
    ["a name longer than the data", SET_META, "000000ff", [INVALID]],
    ["nothing", LIST_META, "", [INVALID]],
  ])("metadata contexts: %s", (_, number, data, types) => {
    expect(replyTypes(feed(start(), option(STRUCTURED), option(number, data)))).toEqual([ACK, ...types]);
  });

  it("are refused with data, and contexts without them", () => {
    expect(replyTypes(feed(start(), option(STRUCTURED, "00")))).toEqual([INVALID]);
    expect(replyTypes(feed(start(), option(SET_META, query("image", "base:allocation"))))).toEqual([INVALID]);
  });

  it.each([
    ["another export is entered", [option(GO, `${text("other")} 0000`)]],
    [
      "a later choice is empty",
      [option(SET_META, query("image", "base:none")), option(GO, `${text("image")} 0000`)],
    ],
    [
      "a later choice is refused",
      [option(SET_META, query("tape", "base:allocation")), option(GO, `${text("image")} 0000`)],
    ],
  ])("a chosen context is dropped when %s", (_, more) => {
    const server = start();
    feed(server, option(STRUCTURED), option(SET_META, query("image", "base:allocation")), ...more);
    expect(server.result).toMatchObject({ structured: { allocation: false } });
  });
});
