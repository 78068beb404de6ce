/** The control server: what it answers to requests, also to those with wrong parameters. */
import { describe, expect, test } from "vitest";
import { ErofsNbdError } from "../../../../src/errors.ts";
import { turns } from "../../../helpers/until.ts";
import { ATTACH, connect, HELLO, line, logged, manager, useControlServer } from "./server-rig.ts";

useControlServer();

describe("requests", () => {
  test("are passed on, and answered with their id", async () => {
    manager.notes = ["left by a former manager"];
    const peer = await connect();
    peer.send(line({ id: 3, method: "status", params: { target: null } }));
    await peer.answer(1);
    peer.send(
      line({
        id: 4,
        method: "detach",
        params: { targets: [{ index: 1 }, { path: "/x" }], all: false, force: true },
      }),
    );
    await peer.answer(2);
    peer.send(line({ id: 0, method: "attach", params: ATTACH }));
    expect(await peer.answer(3)).toEqual([
      { id: 3, result: { devices: [], notes: ["left by a former manager"], manager: manager.vitals() } },
      { id: 4, result: { results: [] } },
      { id: 0, result: { device: { index: 5 }, notes: ["a note of the attach"] } },
    ]);
    expect(manager.calls).toEqual([
      "status null",
      'detach [{"index":1},{"path":"/x"}] false true',
      "attach /a.erofs",
    ]);
  });

  test("run side by side: a slow one does not delay the others", async () => {
    let go = (): void => {};
    manager.before = (call) =>
      call.startsWith("attach")
        ? new Promise<void>((resolve) => {
            go = resolve;
          })
        : undefined;
    const peer = await connect();
    peer.send(
      line({ id: 1, method: "attach", params: ATTACH }) + line({ id: 2, method: "hello", params: {} }),
    );
    expect((await peer.answer(1)).map(({ id }) => id)).toEqual([2]);
    go();
    expect((await peer.answer(2)).map(({ id }) => id)).toEqual([2, 1]);
  });

  test("that end in an ErofsNbdError are answered with its code, hint and exit code, with id 0 too", async () => {
    manager.before = () => {
      throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot find nbd9: it is not attached", { hint: "look" });
    };
    const peer = await connect();
    peer.send(line({ id: 0, method: "status", params: { target: { index: 9 } } }));
    await peer.answer(1);
    peer.send(HELLO);
    expect(await peer.answer(2)).toMatchObject([
      {
        id: 0,
        error: {
          code: "ERR_NOT_ATTACHED",
          message: "cannot find nbd9: it is not attached",
          hint: "look",
          exitCode: 3,
        },
      },
      { id: 1, result: {} },
    ]);
    expect(logged).toEqual([]);
  });

  test("that end in any other error are answered with an internal error, which is logged", async () => {
    manager.before = () => {
      throw new TypeError("undefined is not a function");
    };
    const peer = await connect();
    peer.send(line({ id: 1, method: "status", params: { target: null } }));
    expect(await peer.answer(1)).toMatchObject([
      { id: 1, error: { code: "ERR_INTERNAL", message: "undefined is not a function", exitCode: 4 } },
    ]);
    expect(logged).toEqual(["A request failed: internal error (a bug in erofs-nbd)"]);
  });

  test("with wrong parameters get one line about the first of them, and nothing is done", async () => {
    const wrong: Array<[method: string, params: unknown, words: string]> = [
      ["attach", { ...ATTACH, image: "relative" }, "invalid attach request: image: "],
      ["attach", { ...ATTACH, connections: 0 }, "invalid attach request: connections: "],
      ["attach", { ...ATTACH, connections: 1.5 }, "invalid attach request: connections: "],
      [
        "attach",
        { ...ATTACH, blockSizeBytes: 1000 },
        "invalid attach request: blockSizeBytes: must be a power of two",
      ],
      ["attach", { ...ATTACH, index: -1 }, "invalid attach request: index: "],
      ["attach", { ...ATTACH, timeoutSeconds: 1e12 }, "invalid attach request: timeoutSeconds: "],
      ["attach", { ...ATTACH, surprise: 1 }, "invalid attach request: "],
      ["attach", null, "invalid attach request: "],
      [
        "detach",
        { targets: [{ index: 1, path: "/x" }], all: false, force: false },
        "invalid detach request: targets.0: ",
      ],
      ["detach", { targets: "all", all: false, force: false }, "invalid detach request: targets: "],
      ["status", {}, "invalid status request: target: "],
      ["mounted", { index: "5" }, "invalid mounted request: index: "],
      ["hello", { x: 1 }, "invalid hello request: "],
    ];
    const peer = await connect();
    for (const [at, [method, params]] of wrong.entries()) peer.send(line({ id: at + 1, method, params }));
    const answers = await peer.answer(wrong.length);
    expect(answers).toHaveLength(wrong.length);
    for (const [at, [, , words]] of wrong.entries()) {
      const answer = answers.find(({ id }) => id === at + 1);
      expect(answer?.error).toMatchObject({ code: "ERR_BAD_ARGUMENT", exitCode: 1 });
      expect(
        answer?.error?.message.startsWith(words),
        `${answer?.error?.message} begins with "${words}"`,
      ).toBe(true);
    }
    expect(manager.calls).toEqual([]);
    expect(peer.ended).toBe(false);
  });

  test("are each answered once, also 10,000 at a time", async () => {
    const peer = await connect();
    let all = "";
    for (let id = 1; id <= 10_000; id += 1) all += line({ id, method: "hello", params: {} });
    peer.send(all);
    const answers = await peer.answer(10_000);
    expect(answers.map(({ id }) => id).sort((a, b) => Number(a) - Number(b))).toEqual(
      Array.from({ length: 10_000 }, (_, at) => at + 1),
    );
  });

  test("are the same however they are split, even inside a character", async () => {
    const bytes = Buffer.from(
      line({ id: 1, method: "attach", params: { ...ATTACH, image: "/größe\u2028x" } }),
    );
    const peer = await connect();
    for (const byte of bytes) {
      peer.send(Uint8Array.of(byte));
      await turns(1);
    }
    await peer.answer(1);
    expect(manager.calls).toEqual(["attach /größe\u2028x"]);
  });
});
