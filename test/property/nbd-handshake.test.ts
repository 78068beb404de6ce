/**
 * Property tests of both handshakes: mutated and random bytes end them with a reason, never with a surprise, and
 * never make them answer without bound.
 */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readOnlyExport } from "../../src/nbd/handshake/export.ts";
import { ServerHandshake } from "../../src/nbd/handshake/server.ts";
import { type ClientGoal, ClientHandshake } from "../helpers/nbd/handshake-client.ts";
import { type Cut, converse, uncut } from "../helpers/nbd/handshake-pair.ts";

const exports = [readOnlyExport("one", 4096, "The first"), readOnlyExport("two", 8192)];
const goal: fc.Arbitrary<ClientGoal> = fc.oneof(
  fc.record({
    kind: fc.constantFrom("go" as const, "info" as const),
    exportName: fc.constantFrom("", "one", "two", "three"),
  }),
  fc.constant({ kind: "list" as const }),
);
const cut: fc.Arbitrary<Cut> = fc.integer({ min: 1, max: 40 }).map((size) => (message: Uint8Array) => {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < message.length; at += size) pieces.push(message.subarray(at, at + size));
  return pieces;
});
/** Replaces, drops or inserts bytes at some places. */
const mutation = fc.array(
  fc.record({ at: fc.nat(400), drop: fc.nat(3), insert: fc.uint8Array({ maxLength: 6 }) }),
  { minLength: 1, maxLength: 4 },
);

function mutate(
  bytes: Uint8Array,
  changes: readonly { at: number; drop: number; insert: Uint8Array }[],
): Uint8Array {
  return changes.reduce((now, { at, drop, insert }) => {
    const place = now.length === 0 ? 0 : at % now.length;
    return Uint8Array.from(Buffer.concat([now.subarray(0, place), insert, now.subarray(place + drop)]));
  }, bytes);
}

/** Feeds one side and checks what must hold whatever it is fed. */
function survives(side: ServerHandshake | ClientHandshake, bytes: Uint8Array, pieces: Cut): void {
  let answered = 0;
  for (const piece of pieces(bytes)) {
    if (side.result !== undefined) break;
    answered += side.receive(piece).length;
  }
  // The longest answers are lists; each option of at least 16 bytes earns at most one of them.
  expect(answered).toBeLessThan(200 + 200 * (1 + bytes.length / 16));
  if (side.result?.kind === "ended") expect(side.result.reason).toMatch(/^[^\p{Cc}]+$/u);
  else expect(side.remainder.length).toBeLessThanOrEqual(bytes.length);
}

describe("handshakes", () => {
  it("agree whatever the pieces", () => {
    fc.assert(
      fc.property(goal, cut, (aim, pieces) => {
        const [server, client] = [new ServerHandshake(exports), new ClientHandshake(aim)];
        converse(server, client, pieces);
        const [wholeServer, wholeClient] = [new ServerHandshake(exports), new ClientHandshake(aim)];
        converse(wholeServer, wholeClient, uncut);
        expect(client.result).toEqual(wholeClient.result);
        expect(server.result).toEqual(wholeServer.result);
        expect(client.result).toBeDefined();
      }),
    );
  });

  it("survive a server that sends something else", () => {
    fc.assert(
      fc.property(goal, mutation, cut, (aim, changes, pieces) => {
        const { received } = converse(new ServerHandshake(exports), new ClientHandshake(aim), uncut);
        survives(new ClientHandshake(aim), mutate(received, changes), pieces);
      }),
      { numRuns: 500 },
    );
  });

  it("survive a client that sends something else", () => {
    fc.assert(
      fc.property(goal, mutation, cut, (aim, changes, pieces) => {
        const { sent } = converse(new ServerHandshake(exports), new ClientHandshake(aim), uncut);
        survives(new ServerHandshake(exports), mutate(sent, changes), pieces);
      }),
      { numRuns: 500 },
    );
  });

  it("survive noise behind a good beginning", () => {
    const greeting = new ServerHandshake(exports).greeting;
    fc.assert(
      fc.property(
        goal,
        fc.uint8Array({ maxLength: 400 }),
        cut,
        fc.boolean(),
        (aim, noise, pieces, polite) => {
          const begin = (good: Uint8Array): Uint8Array =>
            Uint8Array.from(Buffer.concat([polite ? good : new Uint8Array(0), noise]));
          survives(new ClientHandshake(aim), begin(greeting), pieces);
          survives(new ServerHandshake(exports), begin(Uint8Array.of(0, 0, 0, 3)), pieces);
        },
      ),
    );
  });
});
