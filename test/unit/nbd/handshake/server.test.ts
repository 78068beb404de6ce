/**
 * The server's handshake against bytes written out by hand: every option, every refusal, every split.
 */

import { describe, expect, it } from "vitest";
import { type NbdExport, readOnlyExport } from "../../../../src/nbd/handshake/export.ts";
import {
  MAX_OPTION_BYTES,
  MAX_OPTIONS,
  OPTIONS_PER_EXPORT,
  ServerHandshake,
} from "../../../../src/nbd/handshake/server.ts";
import {
  bytewise,
  cutAt,
  feedHandshake,
  hexBytes,
  hexString as name,
  hexOption as option,
  hexReply as reply,
  uncut,
} from "../../../helpers/nbd/handshake-pair.ts";

const image = readOnlyExport("image", 0x12345678, "An image");
const other = readOnlyExport("other", 512);
const serve = (exports: readonly NbdExport[] = [image, other]): ServerHandshake =>
  new ServerHandshake(exports);

const fixed = "00000003";

const EXPORT_NAME = 1;
const ABORT = 2;
const LIST = 3;
const INFO = 6;
const GO = 7;
const ACK = "00000001";
const SERVER = "00000002";
const REP_INFO = "00000003";
const UNSUP = "80000001";
const INVALID = "80000003";
const UNKNOWN = "80000006";
const TOO_BIG = "80000009";

/** The type of the only reply in `bytes`, which must be an error with a text for people. */
function errorType(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString("hex");
  expect(hex.slice(0, 16)).toBe("0003e889045565a9");
  expect(Number.parseInt(hex.slice(32, 40), 16)).toBe(bytes.length - 20);
  expect(bytes.length, "an error comes with a text").toBeGreaterThan(20);
  return hex.slice(24, 32);
}

describe("ServerHandshake", () => {
  it("greets as a fixed newstyle server that can leave out the zeroes", () => {
    expect(serve().greeting).toEqual(hexBytes("'NBDMAGIC' 'IHAVEOPT' 0003"));
  });

  it.each([
    ["uncut", uncut],
    ["byte by byte", bytewise],
  ])("answers a whole conversation, %s", (_, cut) => {
    const server = serve();
    const questions = [
      fixed,
      option(8),
      option(LIST),
      option(INFO, `${name("other")} 0000`),
      option(GO, `${name("image")} 0004 0003 0001 0002 0099`),
    ];
    const answers = feedHandshake(server, hexBytes(questions.join("")), cut);
    const expected = [
      reply(8, UNSUP, "'STRUCTURED_REPLY is not supported'"),
      reply(LIST, SERVER, `${name("image")} 'An image'`),
      reply(LIST, SERVER, name("other")),
      reply(LIST, ACK),
      reply(INFO, REP_INFO, "0000 0000000000000200 0103"),
      reply(INFO, ACK),
      reply(GO, REP_INFO, "0000 0000000012345678 0103"),
      reply(GO, REP_INFO, "0001 'image'"),
      reply(GO, REP_INFO, "0002 'An image'"),
      reply(GO, REP_INFO, "0003 00000001 00001000 02000000"),
      reply(GO, ACK),
    ];
    expect(Buffer.from(answers).toString("hex")).toBe(
      Buffer.from(hexBytes(expected.join(""))).toString("hex"),
    );
    expect(server.result).toEqual({
      kind: "transmission",
      exportName: "image",
      transmissionFlags: 0x103,
      noZeroes: true,
      export: image,
    });
  });

  it("answers the same at every split in two", () => {
    const questions = hexBytes([fixed, option(LIST), option(GO, `${name("other")} 0001 0003`)].join(""));
    const whole = feedHandshake(serve(), questions, uncut);
    for (let at = 1; at < questions.length; at++) {
      const server = serve();
      expect(feedHandshake(server, questions, cutAt(at)), `split at ${at}`).toEqual(whole);
      expect(server.result?.kind).toBe("transmission");
    }
  });

  it("keeps what a hasty client sends after its last option", () => {
    const server = serve();
    feedHandshake(server, hexBytes(`${fixed} ${option(GO, `${name("image")} 0000`)} 25609513 00`), uncut);
    expect(server.remainder).toEqual(hexBytes("25609513 00"));
  });

  it("refuses to go on after its end", () => {
    const server = serve();
    feedHandshake(server, hexBytes(fixed + option(ABORT)), uncut);
    expect(() => server.receive(new Uint8Array(1))).toThrow("the handshake is over");
    expect(server.remainder).toEqual(new Uint8Array(0));
  });

  it.each([
    ["00000003", 10],
    ["00000002", 10],
    ["00000001", 134],
    ["00000000", 134],
  ])("answers EXPORT_NAME to a client with flags %s in %i bytes", (flags, expectedBytes) => {
    const server = serve();
    const answer = feedHandshake(server, hexBytes(flags + option(EXPORT_NAME, "'other'")), uncut);
    expect(answer).toEqual(hexBytes(`0000000000000200 0103 ${"00".repeat(expectedBytes - 10)}`));
    expect(server.result).toMatchObject({
      kind: "transmission",
      exportName: "other",
      noZeroes: expectedBytes === 10,
    });
  });

  it("takes the empty name for the first export, or for the one that is called so", () => {
    const first = serve();
    feedHandshake(first, hexBytes(fixed + option(GO, `${name("")} 0000`)), uncut);
    expect(first.result).toMatchObject({ exportName: "image" });
    const named = serve([image, readOnlyExport("", 7)]);
    feedHandshake(named, hexBytes(fixed + option(EXPORT_NAME)), uncut);
    expect(named.result).toMatchObject({ exportName: "", export: { sizeBytes: 7 } });
  });

  it("acknowledges ABORT and says that the end was orderly", () => {
    const server = serve();
    expect(feedHandshake(server, hexBytes(fixed + option(ABORT)), uncut)).toEqual(
      hexBytes(reply(ABORT, ACK)),
    );
    expect(server.result).toMatchObject({ kind: "ended", aborted: true });
  });

  it.each([
    ["an unknown option", option(0xffffffff, "00112233"), UNSUP],
    ["STARTTLS", option(5), UNSUP],
    ["SET_META_CONTEXT", option(10, "0000"), UNSUP],
    ["EXTENDED_HEADERS", option(11), UNSUP],
    ["PEEK_EXPORT", option(4), UNSUP],
    ["LIST with data", option(LIST, "00"), INVALID],
    ["GO without data", option(GO), INVALID],
    ["GO with five bytes", option(GO, "0000000000"), INVALID],
    ["GO with a name longer than the option", option(GO, "00000002 'x' 0000"), INVALID],
    ["GO with the longest name length", option(GO, "ffffffff 0000"), INVALID],
    ["GO with too few requests", option(GO, `${name("image")} 0002 0003`), INVALID],
    ["GO with bytes left over", option(GO, `${name("image")} 0001 0003 00`), INVALID],
    ["GO with a name above 4096 bytes", option(GO, `${name("n".repeat(4097))} 0000`), TOO_BIG],
    ["GO for an unknown export", option(GO, `${name("imag")} 0000`), UNKNOWN],
    ["INFO for an unknown export", option(INFO, `${name("imagee")} 0000`), UNKNOWN],
  ])("refuses %s and goes on", (_, question, type) => {
    const server = serve();
    expect(errorType(feedHandshake(server, hexBytes(fixed + question), uncut))).toBe(type);
    expect(server.result).toBeUndefined();
    expect(server.receive(hexBytes(option(ABORT)))).toEqual(hexBytes(reply(ABORT, ACK)));
  });

  it.each([
    ["unknown flags", "00000007", "the client set unknown flags 0x4"],
    ["the highest flag", "80000000", "the client set unknown flags 0x80000000"],
    [
      "a wrong magic",
      `${fixed} 'IHAVEOPS' 00000003 00000000`,
      "the client's option does not start with IHAVEOPT",
    ],
    [
      "an unknown export by EXPORT_NAME",
      fixed + option(EXPORT_NAME, "'no\u001bpe'"),
      "there is no export named 'no\\u{1b}pe'",
    ],
    [
      "an option that is too long",
      `${fixed} 'IHAVEOPT' 00000063 00010001`,
      "the client's option 99 announces 65537 bytes, more than 65536",
    ],
    [
      "an option without fixed newstyle",
      `00000000 ${option(LIST)}`,
      "the client sent LIST without agreeing on fixed newstyle",
    ],
  ])("ends at %s without an answer", (_, bytes, reason) => {
    for (const cut of [uncut, bytewise]) {
      const server = serve();
      expect(feedHandshake(server, hexBytes(bytes), cut)).toEqual(new Uint8Array(0));
      expect(server.result).toEqual({ kind: "ended", reason, aborted: false });
    }
  });

  it("takes the longest option it allows", () => {
    const server = serve();
    const answer = feedHandshake(server, hexBytes(fixed + option(99, "00".repeat(MAX_OPTION_BYTES))), uncut);
    expect(errorType(answer)).toBe(UNSUP);
    expect(server.result).toBeUndefined();
  });

  it("does not listen to a client for ever", () => {
    const server = serve();
    server.receive(hexBytes(fixed));
    let answered = 0;
    while (server.result === undefined && answered < 1000)
      if (server.receive(hexBytes(option(LIST))).length > 0) answered++;
    expect(answered).toBe(MAX_OPTIONS + 2 * OPTIONS_PER_EXPORT);
    expect(server.result).toMatchObject({ kind: "ended", reason: "the client sends options without end" });
  });

  it("has nothing to offer without exports", () => {
    const server = serve([]);
    expect(errorType(feedHandshake(server, hexBytes(fixed + option(GO, `${name("")} 0000`)), uncut))).toBe(
      UNKNOWN,
    );
    expect(server.receive(hexBytes(option(LIST)))).toEqual(hexBytes(reply(LIST, ACK)));
  });

  it.each([
    ["its size is -1", { sizeBytes: -1 }],
    ["its size is 1.5", { sizeBytes: 1.5 }],
    ["its flags are 0x2", { transmissionFlags: 2 }],
    ["its flags are 0x10001", { transmissionFlags: 0x10001 }],
    ["a text contains NUL", { name: "a\0b" }],
    ["a text is longer than 4096 bytes", { name: "ü".repeat(2049) }],
    ["a text is longer than 4096 bytes", { description: "x".repeat(4097) }],
    ["its minimum block size 3 is", { minimumBlockBytes: 3 }],
    ["its minimum block size 131072 is", { minimumBlockBytes: 131072 }],
    ["its preferred block size 256 is", { preferredBlockBytes: 256 }],
    ["its preferred block size 4096 is", { minimumBlockBytes: 8192 }],
    ["its maximum block size 5000 does", { minimumBlockBytes: 512, maximumBlockBytes: 5000 }],
    ["its maximum block size 2048 does", { maximumBlockBytes: 2048 }],
    ["its maximum block size 4294967296 exceeds", { maximumBlockBytes: 2 ** 32 }],
  ])("refuses to offer an export: %s …", (why, wrong) => {
    expect(() => serve([{ ...image, ...wrong }])).toThrow(why);
    expect(() => serve([{ ...image, ...wrong }])).toThrow(RangeError);
  });

  it("refuses two exports of one name, and takes an unlimited block size", () => {
    expect(() => serve([image, image])).toThrow("same name");
    expect(() => serve([{ ...image, maximumBlockBytes: 0xffffffff }])).not.toThrow();
  });
});
