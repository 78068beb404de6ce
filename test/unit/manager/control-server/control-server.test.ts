/** control-server.ts over a real socket: hostile peers, loans, watchers. */
import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { MAX_LINE_BYTES } from "../../../../src/control/protocol.ts";
import { ErofsNbdError } from "../../../../src/errors.ts";
import { ControlServer } from "../../../../src/manager/control-server/control-server.ts";
import { SOCK_STREAM } from "../../../../src/sys/libc/sockets.ts";
import { asNobody, canBeNobody } from "../../../helpers/processes/as-nobody.ts";
import { connectUnix } from "../../../helpers/sockets/connect-unix.ts";
import { turns, until } from "../../../helpers/until.ts";
import { FakeManager } from "../fake-manager.ts";
import { RawPeer } from "./raw-peer.ts";

let directory: string;
let path: string;
let manager: FakeManager;
let server: ControlServer;
let logged: string[];
const peers: RawPeer[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-control-"));
  path = join(directory, "control.sock");
  manager = new FakeManager();
  logged = [];
  const log = (message: string): number => logged.push(message);
  server = new ControlServer(path, manager, { info: log, warn: log, error: log });
});
afterEach(async () => {
  for (const peer of peers.splice(0)) peer.close();
  await until("all connections gone", () => server.connectionCount === 0);
  server.close();
  rmSync(directory, { recursive: true });
});

async function connect(): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  peers.push(peer);
  return peer;
}

const line = (value: unknown): string => `${JSON.stringify(value)}\n`;
const ATTACH = {
  image: "/a.erofs",
  interface: "netlink",
  index: null,
  connections: 1,
  blockSizeBytes: null,
  timeoutSeconds: 0,
  deadTimeoutSeconds: 60,
  ioTimeoutMs: 1000,
  hangTimeoutMs: 2000,
  forMount: false,
};

describe("the socket", () => {
  test("is for its owner alone with any umask, and is removed with the server", async () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const before = process.umask(0);
    const other = new ControlServer(join(directory, "other.sock"), manager, {
      info: () => {},
      warn: () => {},
      error: () => {},
    });
    expect(statSync(join(directory, "other.sock")).mode & 0o777).toBe(0o600);
    expect(process.umask(before)).toBe(0);
    other.close();
    expect(() => statSync(join(directory, "other.sock"))).toThrow("ENOENT");
  });

  test("a dead manager's socket, or any file in its place, is replaced", () => {
    const stale = join(directory, "stale.sock");
    writeFileSync(stale, "");
    const quiet = { info: () => {}, warn: () => {}, error: () => {} };
    const other = new ControlServer(stale, manager, quiet);
    expect(statSync(stale).isSocket()).toBe(true);
    other.close();
  });

  test("closing it ends every connection", async () => {
    const peer = await connect();
    peer.send(line({ id: 1, method: "hello", params: {} }));
    await peer.answer(1);
    server.close();
    await peer.end();
  });

  test.runIf(canBeNobody)(
    "another user is cut off before its request is read, even if the file mode allows it",
    async () => {
      chmodSync(directory, 0o755);
      chmodSync(path, 0o666);
      const peer = RawPeer.over(asNobody(() => connectUnix(path, SOCK_STREAM)));
      peers.push(peer);
      peer.send(line({ id: 1, method: "hello", params: {} }));
      await peer.end();
      expect(peer.answers).toEqual([]);
      expect(logged).toEqual([`Refused a control connection of process ${process.pid}, user 65534`]);
    },
  );

  test("257 peers: the last is refused, the others are served", async () => {
    for (let count = 0; count < 256; count += 1) await connect();
    await until("all accepted", () => server.connectionCount === 256);
    const last = await connect();
    await last.end();
    expect(logged).toEqual([
      `Refused a control connection of process ${process.pid}, user ${process.getuid?.()}`,
    ]);
    peers[0]?.send(line({ id: 1, method: "hello", params: {} }));
    expect(await peers[0]?.answer(1)).toMatchObject([{ id: 1, result: { pid: process.pid } }]);
  });
});

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

  test("an ErofsNbdError keeps its code, hint and exit code; the connection goes on, with id 0 too", async () => {
    manager.before = () => {
      throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot find nbd9: it is not attached", { hint: "look" });
    };
    const peer = await connect();
    peer.send(line({ id: 0, method: "status", params: { target: { index: 9 } } }));
    await peer.answer(1);
    peer.send(line({ id: 1, method: "hello", params: {} }));
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

  test("any other error is answered as an internal error and logged", async () => {
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

  test("wrong parameters: one line about the first one, and nothing is done", async () => {
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

  test("10,000 at once: each is answered once", async () => {
    const peer = await connect();
    let all = "";
    for (let id = 1; id <= 10_000; id += 1) all += line({ id, method: "hello", params: {} });
    peer.send(all);
    const answers = await peer.answer(10_000);
    expect(answers.map(({ id }) => id).sort((a, b) => Number(a) - Number(b))).toEqual(
      Array.from({ length: 10_000 }, (_, at) => at + 1),
    );
  });

  test("split anywhere, even inside a character: the same request", async () => {
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
    for (const before of ["", line({ id: 1, method: "hello", params: {} })]) {
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

describe("a connection that drops", () => {
  test("in the middle of a request: the request is finished without an answer", async () => {
    let finished = false;
    let go = (): void => {};
    manager.before = async () => {
      await new Promise<void>((resolve) => {
        go = resolve;
      });
      finished = true;
    };
    const peer = await connect();
    peer.send(line({ id: 1, method: "status", params: { target: null } }));
    await until("the call", () => manager.calls.length === 1);
    peer.close();
    await until("its end", () => server.connectionCount === 0);
    go();
    await turns();
    expect(finished).toBe(true);
    expect(logged).toEqual([]);
  });

  const forMount = { ...ATTACH, forMount: true };

  test("before its mount was reported: the loan is settled once", async () => {
    const peer = await connect();
    peer.send(line({ id: 1, method: "attach", params: forMount }));
    await peer.answer(1);
    expect(manager.settled).toEqual([]);
    peer.close();
    await until("the settling", () => manager.settled.length > 0);
    await turns();
    expect(manager.settled).toEqual(["identifier of /a.erofs"]);
  });

  test("after its mount was reported, or without a loan: nothing is settled", async () => {
    const peer = await connect();
    peer.send(line({ id: 1, method: "attach", params: forMount }));
    await peer.answer(1);
    peer.send(line({ id: 2, method: "mounted", params: { index: 5 } }));
    peer.send(line({ id: 3, method: "attach", params: ATTACH }));
    await peer.answer(3);
    peer.close();
    await until("its end", () => server.connectionCount === 0);
    await turns();
    expect(manager.settled).toEqual([]);
  });

  test("while the device is being attached: the loan is settled after the attach", async () => {
    let go = (): void => {};
    manager.before = () =>
      new Promise<void>((resolve) => {
        go = resolve;
      });
    const peer = await connect();
    peer.send(line({ id: 1, method: "attach", params: forMount }));
    await until("the call", () => manager.calls.length === 1);
    peer.close();
    await until("its end", () => server.connectionCount === 0);
    expect(manager.settled).toEqual([]);
    go();
    await until("the settling", () => manager.settled.length === 1);
  });

  test("after reporting the mount has failed: the loan is settled", async () => {
    const peer = await connect();
    peer.send(line({ id: 1, method: "attach", params: forMount }));
    await peer.answer(1);
    manager.before = () => {
      throw new Error("RECONFIGURE failed");
    };
    peer.send(line({ id: 2, method: "mounted", params: { index: 5 } }));
    await peer.answer(2);
    peer.close();
    await until("the settling", () => manager.settled.length === 1);
  });
});

describe("watch", () => {
  const event = { at: "now", device: "/dev/nbd5", event: "revived" } as const;

  test("sends each event once to each peer that has asked, until it closes", async () => {
    const [watcher, other] = [await connect(), await connect()];
    watcher.send(line({ id: 1, method: "watch", params: {} }) + line({ id: 2, method: "watch", params: {} }));
    await watcher.answer(2);
    manager.emit("event", event);
    expect(await watcher.answer(3)).toEqual([{ id: 1, result: {} }, { id: 2, result: {} }, { event }]);
    expect(other.answers).toEqual([]);
    watcher.close();
    await until("the listener is gone", () => manager.listenerCount("event") === 0);
    manager.emit("event", event);
  });
});
