/**
 * The client's handshake against servers written out by hand: good ones and old ones, at every split (hostile ones have
 * a file of their own).
 */

import { describe, expect, it } from "vitest";
import { type ClientGoal, ClientHandshake } from "../../../helpers/nbd/handshake-client.ts";
import {
  bytewise,
  cutAt,
  feedHandshake,
  hexBytes,
  hexReply as reply,
  uncut,
} from "../../../helpers/nbd/handshake-pair.ts";
import { ack, exportInfo, GO, greeting, LIST, listed, run } from "./client-script.ts";

const INFO: ClientGoal = { kind: "info", exportName: "disk" };

const goOption = "'IHAVEOPT' 00000007 00000010 00000004 'disk' 0003 0001 0002 0003";
const infoOption = "'IHAVEOPT' 00000006 00000010 00000004 'disk' 0003 0001 0002 0003";
const listOption = "'IHAVEOPT' 00000003 00000000";
const nameOption = "'IHAVEOPT' 00000001 00000004 'disk'";
const abortOption = "'IHAVEOPT' 00000002 00000000";
const facts = {
  sizeBytes: 0x10000,
  transmissionFlags: 0x103,
  canonicalName: undefined,
  description: undefined,
  blockSizes: undefined,
};

const hex = (text: string): string => Buffer.from(hexBytes(text)).toString("hex");

describe("ClientHandshake", () => {
  it.each([
    ["uncut", uncut],
    ["byte by byte", bytewise],
  ])("goes into transmission with all a server tells, %s", (_, cut) => {
    const words = [
      greeting,
      reply(7, "00000003", "0003 00000200 00001000 ffffffff"),
      reply(7, "00000003", "0002 'A disk'"),
      reply(7, "00000003", "0001 'the disk'"),
      reply(7, "00000003", "0077 'something new'"),
      exportInfo(7),
      ack(7),
    ];
    const { said, client } = run(GO, words.join(""), cut);
    expect(said).toBe(hex(`00000003 ${goOption}`));
    expect(client.result).toEqual({
      kind: "transmission",
      exportName: "disk",
      noZeroes: true,
      facts: {
        ...facts,
        canonicalName: "the disk",
        description: "A disk",
        blockSizes: { minimumBytes: 512, preferredBytes: 4096, maximumBytes: 0xffffffff },
      },
    });
    expect(client.remainder).toEqual(new Uint8Array(0));
  });

  it("behaves the same at every split in two", () => {
    const words = hexBytes([greeting, exportInfo(7), ack(7), "67446698"].join(""));
    for (let at = 1; at < words.length - 4; at++) {
      const client = new ClientHandshake(GO);
      const said = feedHandshake(client, words, cutAt(at));
      expect(Buffer.from(said).toString("hex"), `split at ${at}`).toBe(hex(`00000003 ${goOption}`));
      expect(client.result).toEqual({ kind: "transmission", exportName: "disk", noZeroes: true, facts });
      expect(client.remainder).toEqual(hexBytes("67446698"));
    }
  });

  it("falls back to EXPORT_NAME where the server knows no GO", () => {
    const { said, client } = run(GO, `${greeting} ${reply(7, "80000001", "'what?'")} 0000000000010000 0103`);
    expect(said).toBe(hex(`00000003 ${goOption} ${nameOption}`));
    expect(client.result).toEqual({ kind: "transmission", exportName: "disk", noZeroes: true, facts });
  });

  it("waits for the zeroes where the server cannot leave them out", () => {
    const words = `'NBDMAGIC' 'IHAVEOPT' 0001 ${reply(7, "80000001")} 0000000000010000 0103 ${"00".repeat(124)}`;
    const short = run(GO, words.slice(0, -2));
    expect(short.client.result).toBeUndefined();
    const { said, client } = run(GO, words, bytewise);
    expect(said).toBe(hex(`00000001 ${goOption} ${nameOption}`));
    expect(client.result).toMatchObject({ kind: "transmission", noZeroes: false, facts });
  });

  it("speaks plain newstyle with EXPORT_NAME only, and cannot ask such a server anything else", () => {
    const plain = "'NBDMAGIC' 'IHAVEOPT' 0000";
    const { said, client } = run(GO, `${plain} 0000000000010000 0103 ${"00".repeat(124)}`);
    expect(said).toBe(hex(`00000000 ${nameOption}`));
    expect(client.result).toMatchObject({ kind: "transmission", facts });
    expect(run(LIST, plain).client.result).toEqual({
      kind: "ended",
      reason: "the server can only serve exports, it does not answer list",
    });
  });

  it("ignores handshake flags it does not know", () => {
    expect(run(GO, "'NBDMAGIC' 'IHAVEOPT' ffff").said).toBe(hex(`00000003 ${goOption}`));
  });

  it("asks for information and leaves with an ABORT", () => {
    const { said, client } = run(INFO, `${greeting} ${exportInfo(6)} ${ack(6)}`);
    expect(said).toBe(hex(`00000003 ${infoOption} ${abortOption}`));
    expect(client.result).toEqual({ kind: "info", exportName: "disk", facts });
  });

  it("lists exports and leaves with an ABORT", () => {
    const { said, client } = run(
      LIST,
      `${greeting} ${listed("")} ${listed("ü", "a disk")} ${ack(3)}`,
      bytewise,
    );
    expect(said).toBe(hex(`00000003 ${listOption} ${abortOption}`));
    expect(client.result).toEqual({
      kind: "list",
      exports: [
        { name: "", description: "" },
        { name: "ü", description: "a disk" },
      ],
    });
  });

  it.each([
    [INFO, 6, "80000001", "", "the server refused INFO with ERR_UNSUP, not supported"],
    [
      GO,
      7,
      "80000006",
      "'gone\n'",
      "the server refused GO with ERR_UNKNOWN, no such export, saying 'gone\\u{a}'",
    ],
    [GO, 7, "80000005", "", "the server refused GO with ERR_TLS_REQD, it insists on TLS"],
    [LIST, 3, "80000002", "", "the server refused LIST with ERR_POLICY, forbidden by its policy"],
    [GO, 7, "8000abcd", "", "the server refused GO with error 0x8000abcd"],
  ])("leaves politely when refused (%#)", (goal, option, type, text, reason) => {
    const { said, client } = run(goal, greeting + reply(option, type, text));
    expect(said.endsWith(hex(abortOption))).toBe(true);
    expect(client.result).toEqual({ kind: "ended", reason });
  });

  it("refuses a name it may not send, and to go on after its end", () => {
    expect(() => new ClientHandshake({ kind: "go", exportName: "ü".repeat(2049) })).toThrow(RangeError);
    const { client } = run(GO, "'SSH-2.0-'");
    expect(() => client.receive(new Uint8Array(1))).toThrow("the handshake is over");
  });
});
