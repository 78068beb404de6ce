/** The control server: input that is no request is answered with one error, and the connection is cut. */
import { describe, expect, test } from "vitest";
import { MAX_LINE_BYTES } from "../../../../src/control/protocol.ts";
import { until } from "../../../helpers/until.ts";
import { connect, HELLO, line, manager, server, useControlServer } from "./server-rig.ts";

useControlServer();

describe("an invalid request", () => {
  const nonsense: Array<[what: string, text: string, id: number]> = [
    ["not JSON", "hello\n", 0],
    ["an empty line", "\n", 0],
    ["a number", "5\n", 0],
    ["null", "null\n", 0],
    ["an array", "[]\n", 0],
    ["no id", line({ method: "hello", params: {} }), 0],
    ["a negative id", line({ id: -1, method: "hello", params: {} }), 0],
    ["a fraction for an id", line({ id: 1.5, method: "hello", params: {} }), 0],
    ["a word for an id", line({ id: "1", method: "hello", params: {} }), 0],
    ["an unknown method", line({ id: 7, method: "explode", params: {} }), 7],
    ["a method of Object.prototype", line({ id: 7, method: "toString", params: {} }), 7],
    ["an extra field", line({ id: 7, method: "hello", params: {}, extra: 1 }), 7],
    ["deep nesting", `${"[".repeat(100_000)}\n`, 0],
    ["control characters", "\u0000\u0001\n", 0],
  ];

  for (const [what, text, id] of nonsense) {
    test(`${what}: answered with an error, cut off, and nothing after it is done`, async () => {
      const peer = await connect();
      peer.send(text + line({ id: 8, method: "detach", params: { targets: [], all: true, force: true } }));
      await peer.end();
      expect(peer.answers).toMatchObject([{ id, error: { code: "ERR_BAD_ARGUMENT", exitCode: 1 } }]);
      expect(manager.calls).toEqual([]);
    });
  }

  test("an endless line: cut off at the limit, with and without lines before it", async () => {
    for (const before of ["", HELLO]) {
      const peer = await connect();
      peer.send(before + "x".repeat(MAX_LINE_BYTES + 1));
      await peer.end();
      expect(peer.answers.length).toBeLessThanOrEqual(1);
    }
    const peer = await connect();
    const padding = "x".repeat(MAX_LINE_BYTES - 100);
    peer.send(line({ id: 1, method: "hello", params: { padding } }));
    expect(await peer.answer(1)).toMatchObject([{ id: 1, error: { code: "ERR_BAD_ARGUMENT" } }]);
  });

  test("half a request before the end of the connection: nothing is done", async () => {
    const peer = await connect();
    const whole = line({ id: 1, method: "detach", params: { targets: [], all: true, force: true } });
    peer.socket.end(whole.slice(0, -1));
    await peer.end();
    expect(manager.calls).toEqual([]);
  });

  test("a peer that never reads its answers is cut off before they fill the memory", async () => {
    manager.statusAnswer = Array(2000).fill({ device: "/dev/nbd0", identifier: "x".repeat(100) });
    const peer = await connect();
    peer.socket.pause();
    for (let id = 1; id <= 400; id += 1) peer.send(line({ id, method: "status", params: { target: null } }));
    await until("the cut", () => server.connectionCount === 0);
  });
});
