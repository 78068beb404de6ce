/**
 * The project's client handshake against its server handshake, with every message cut at every place.
 */

import { describe, expect, it } from "vitest";
import { readOnlyExport } from "../../../../src/nbd/handshake/export.ts";
import { ServerHandshake } from "../../../../src/nbd/handshake/server.ts";
import { type ClientGoal, ClientHandshake } from "../../../helpers/nbd/handshake-client.ts";
import { bytewise, converse, cutAt, uncut } from "../../../helpers/nbd/handshake-pair.ts";

const exports = [readOnlyExport("one", 4096, "The first"), readOnlyExport("two", 8192)];
const goals: ClientGoal[] = [
  { kind: "go", exportName: "two" },
  { kind: "go", exportName: "" },
  { kind: "go", exportName: "three" },
  { kind: "info", exportName: "one" },
  { kind: "list" },
];

describe("client and server handshake", () => {
  it.each(goals)("agree whatever the split: $kind $exportName", (goal) => {
    const whole = { server: new ServerHandshake(exports), client: new ClientHandshake(goal) };
    const words = converse(whole.server, whole.client, uncut);
    expect(whole.client.result?.kind).toBe(
      goal.kind === "go" && goal.exportName === "three"
        ? "ended"
        : goal.kind === "go"
          ? "transmission"
          : goal.kind,
    );
    expect(whole.server.result?.kind).toBe(
      whole.client.result?.kind === "transmission" ? "transmission" : "ended",
    );
    const longest = Math.max(words.sent.length, words.received.length);
    for (let at = 0; at < longest; at++) {
      const server = new ServerHandshake(exports);
      const client = new ClientHandshake(goal);
      expect(converse(server, client, at === 0 ? bytewise : cutAt(at)), `split at ${at}`).toEqual(words);
      expect(client.result).toEqual(whole.client.result);
      expect(server.result).toEqual(whole.server.result);
    }
  });

  it("agree on size, flags and block sizes", () => {
    const server = new ServerHandshake(exports);
    const client = new ClientHandshake({ kind: "go", exportName: "" });
    converse(server, client, uncut);
    expect(server.result).toMatchObject({ exportName: "one", noZeroes: true });
    expect(client.result).toEqual({
      kind: "transmission",
      exportName: "",
      noZeroes: true,
      facts: {
        sizeBytes: 4096,
        transmissionFlags: 0x103,
        canonicalName: "one",
        description: "The first",
        blockSizes: { minimumBytes: 1, preferredBytes: 4096, maximumBytes: 32 << 20 },
      },
    });
  });

  it("agree on an empty export", () => {
    const server = new ServerHandshake([readOnlyExport("", 0)]);
    const client = new ClientHandshake({ kind: "go", exportName: "" });
    converse(server, client, uncut);
    expect(server.result).toMatchObject({ kind: "transmission", export: { sizeBytes: 0 } });
    expect(client.result).toMatchObject({ kind: "transmission", facts: { sizeBytes: 0 } });
  });
});
