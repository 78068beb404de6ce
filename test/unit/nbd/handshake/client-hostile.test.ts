/**
 * The client's handshake against servers that speak something else, lie about lengths, or do not stop talking.
 */

import { describe, expect, it } from "vitest";
import { ClientHandshake, MAX_LIST_BYTES } from "../../../helpers/nbd/handshake-client.ts";
import {
  bytewise,
  hexBytes,
  hexReply as reply,
  hexU32 as u32,
  uncut,
} from "../../../helpers/nbd/handshake-pair.ts";
import { ack, exportInfo, GO, greeting, LIST, listed, run } from "./client-script.ts";

const abortOption = "'IHAVEOPT' 00000002 00000000";

/** The server's information reply to GO, and one with its block sizes: the smallest, the preferred, the largest. */
const information = (data: string): string => reply(7, "00000003", data);
const blockSizes = (smallest: string, preferred: string, largest: string): string =>
  information(`0003 ${smallest} ${preferred} ${largest}`);

const hex = (text: string): string => Buffer.from(hexBytes(text)).toString("hex");

describe("ClientHandshake at a bad server", () => {
  it.each([
    ["another protocol", GO, "'SSH-2.0-'", "it is no NBD server"],
    [
      "oldstyle",
      GO,
      "'NBDMAGIC' 0000420281861253",
      "the server speaks the oldstyle handshake, which is not supported",
    ],
    [
      "a third style",
      GO,
      "'NBDMAGIC' 0000420281861254",
      "the server's greeting is neither newstyle nor oldstyle",
    ],
    [
      "a wrong reply magic",
      GO,
      `${greeting} 0003e889045565a8 00000007 00000001 00000000`,
      "the server's option reply has a wrong magic",
    ],
    ["an answer to another option", GO, greeting + ack(3), "the server answered LIST while it was asked GO"],
    [
      "a huge reply",
      GO,
      `${greeting} 0003e889045565a9 00000007 00000003 ffffffff`,
      "the server's reply to GO is too long (4294967295 more bytes)",
    ],
    [
      "a reply one byte too long",
      LIST,
      `${greeting} 0003e889045565a9 00000003 00000002 ${u32(MAX_LIST_BYTES - 19)}`,
      `the server's reply to LIST is too long (${MAX_LIST_BYTES - 19} more bytes)`,
    ],
    [
      "a list entry without a name",
      LIST,
      greeting + reply(3, "00000002", "000000"),
      "the server's list entry is shorter than the name in it",
    ],
    [
      "a list entry that lies",
      LIST,
      greeting + reply(3, "00000002", "00000003 'ab'"),
      "the server's list entry is shorter than the name in it",
    ],
    [
      "a name too long",
      LIST,
      greeting + listed("n".repeat(4097)),
      "the server's list entry has a text longer than 4096 bytes",
    ],
    [
      "a description too long",
      LIST,
      greeting + listed("n", "d".repeat(4097)),
      "the server's list entry has a text longer than 4096 bytes",
    ],
    [
      "information in a list",
      LIST,
      greeting + exportInfo(3),
      "the server answered LIST with a reply of type 3",
    ],
    [
      "a list entry for GO",
      GO,
      greeting + reply(7, "00000002", "00000000"),
      "the server answered GO with a reply of type 2",
    ],
    [
      "an unknown reply",
      GO,
      greeting + reply(7, "00000009"),
      "the server answered GO with a reply of type 9",
    ],
    ["success without a size", GO, greeting + ack(7), "the server did not tell the export's size"],
    [
      "information without a type",
      GO,
      greeting + information("00"),
      "the server's information reply is empty",
    ],
    [
      "a short size",
      GO,
      greeting + information("0000 00000000"),
      "the server's export information has 6 bytes, not 12",
    ],
    [
      "an export too large",
      GO,
      greeting + exportInfo(7, "0020000000000000"),
      "the export is too large (9007199254740992 bytes)",
    ],
    [
      "short block sizes",
      GO,
      greeting + information("0003 00000001"),
      "the server's block sizes have 6 bytes, not 14",
    ],
    [
      "a minimum of 3",
      GO,
      greeting + blockSizes("00000003", "00001000", "ffffffff"),
      "the server's block sizes make no sense: its minimum block size 3 is no power of two up to 65536",
    ],
    [
      "a minimum of 0",
      GO,
      greeting + blockSizes("00000000", "00001000", "ffffffff"),
      "the server's block sizes make no sense: its minimum block size 0 is no power of two up to 65536",
    ],
    [
      "a preferred size of 0",
      GO,
      greeting + blockSizes("00000001", "00000000", "ffffffff"),
      "the server's block sizes make no sense: its preferred block size 0 is no power of two from 512 on",
    ],
    [
      "a maximum of 0",
      GO,
      greeting + blockSizes("00000001", "00000200", "00000000"),
      "the server's block sizes make no sense: its maximum block size 0 does not fit the others",
    ],
    [
      "an EXPORT_NAME too large",
      GO,
      `${greeting} ${reply(7, "80000001")} ffffffffffffffff 0001`,
      "the export is too large (18446744073709551615 bytes)",
    ],
  ])("ends at %s, with a reason and without an ABORT", (_, goal, server, reason) => {
    for (const cut of [uncut, bytewise]) {
      const { said, client } = run(goal, server, cut);
      expect(client.result).toEqual({ kind: "ended", reason });
      expect(said.endsWith(hex(abortOption))).toBe(false);
    }
  });

  it("does not read an endless list", () => {
    const client = new ClientHandshake(LIST);
    client.receive(hexBytes(greeting));
    const entry = hexBytes(listed("n".repeat(4000)));
    let entries = 0;
    while (client.result === undefined && entries < 1000) {
      client.receive(entry);
      entries++;
    }
    expect(entries).toBe(Math.ceil(MAX_LIST_BYTES / entry.length));
    expect(client.result).toMatchObject({
      kind: "ended",
      reason: "the server's reply to LIST is too long (4004 more bytes)",
    });
  });
});
