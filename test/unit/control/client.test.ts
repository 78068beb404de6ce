/** client.ts: answers, and a manager that goes away. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ControlClient } from "../../../src/control/client.ts";
import type { DeviceEvent } from "../../../src/control/protocol.ts";
import { connectOrStart } from "../../../src/control/reach/start-manager.ts";
import { chooseRunDir, type RunDir } from "../../../src/control/run-dir.ts";
import { prepareRunDir } from "../../../src/control/run-dir-trust.ts";
import { ErofsNbdError } from "../../../src/errors.ts";
import { toAttachParams } from "../../../src/library/options.ts";
import { ControlServer } from "../../../src/manager/control-server/control-server.ts";
import { isGone, processState } from "../../helpers/processes/process-state.ts";
import { turns, until } from "../../helpers/until.ts";
import { FakeManager } from "../manager/fake-manager.ts";

const QUIET = { info: () => {}, warn: () => {}, error: () => {} };

let base: string;
let runDir: RunDir;
const closing: Array<() => void> = [];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "erofs-nbd-client-"));
  runDir = chooseRunDir(join(base, "run"));
});
afterEach(() => {
  for (const close of closing.splice(0).reverse()) close();
  rmSync(base, { recursive: true, force: true });
});

async function connected(): Promise<ControlClient> {
  const client = await ControlClient.connect(runDir);
  if (client === undefined) throw new Error("no manager");
  closing.push(() => client.close());
  return client;
}

function serve(): { manager: FakeManager; server: ControlServer } {
  prepareRunDir(runDir);
  const manager = new FakeManager();
  const server = new ControlServer(runDir.controlSocket, manager, QUIET);
  closing.push(() => server.close());
  return { manager, server };
}

/** A manager that says what the test wants, byte by byte. */
async function serveRaw(answer: (socket: Socket) => void): Promise<Server> {
  prepareRunDir(runDir);
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => answer(socket));
  });
  server.listen(runDir.controlSocket);
  await once(server, "listening");
  closing.push(() => server.close());
  return server;
}

const GONE = { code: "ERR_CONTROL", message: "cannot finish the request: the manager went away" };

/** A program that listens on the control socket and sends itself that signal. */
const listenAnd = (signal: string): string =>
  `require("net").createServer().listen(
     ${JSON.stringify(runDir.controlSocket)}, () => process.kill(process.pid, "${signal}"))`;

describe("connect", () => {
  test("no manager: no directory, no socket, a dead manager's socket", async () => {
    expect(await ControlClient.connect(runDir)).toBeUndefined();
    prepareRunDir(runDir);
    expect(await ControlClient.connect(runDir)).toBeUndefined();
    // A socket that was bound and whose process was killed.
    const script = listenAnd("SIGKILL");
    await once(spawn(process.execPath, ["-e", script], { stdio: "ignore" }), "exit");
    expect(existsSync(runDir.controlSocket)).toBe(true);
    expect(await ControlClient.connect(runDir)).toBeUndefined();
    expect(await ControlClient.connect(chooseRunDir(join(runDir.controlSocket, "x")))).toBeUndefined();
  });

  test("no manager: one that dies before it accepts the connection", async () => {
    prepareRunDir(runDir);
    const script = listenAnd("SIGSTOP");
    const listener = spawn(process.execPath, ["-e", script], { stdio: "ignore" });
    await until("the stop", () => processState(listener.pid) === "T");
    const connecting = ControlClient.connect(runDir);
    listener.kill("SIGKILL");
    // Without a turn of our loop, which would call the connection made.
    while (!isGone(listener.pid)) {}
    expect(await connecting).toBeUndefined();
  });

  test("a directory that other users may write to, or whose path they may change, is not trusted", async () => {
    const { manager } = serve();
    chmodSync(runDir.path, 0o733);
    await expect(ControlClient.connect(runDir)).rejects.toMatchObject({
      code: "ERR_RUN_DIR",
      message: expect.stringContaining("other users may write to it"),
    });
    chmodSync(runDir.path, 0o700);
    chmodSync(base, 0o777);
    await expect(connectOrStart(runDir)).rejects.toMatchObject({ code: "ERR_RUN_DIR" });
    chmodSync(base, 0o700);
    symlinkSync(runDir.path, join(base, "link"));
    await expect(ControlClient.connect(chooseRunDir(join(base, "link")))).rejects.toThrow(
      "it is a symbolic link",
    );
    expect(manager.calls).toEqual([]);
  });

  test.runIf(process.getuid?.() === 0)("a directory of another user is not trusted", async () => {
    serve();
    chownSync(runDir.path, 65534, 65534);
    await expect(ControlClient.connect(runDir)).rejects.toMatchObject({
      code: "ERR_RUN_DIR",
      message: `cannot use run directory ${runDir.path}: it belongs to another user`,
    });
  });

  test("a path that is too long for a socket is refused: it would be cut off, and lead to another's", async () => {
    const long = chooseRunDir(join(base, "x".repeat(200)));
    writeFileSync(long.controlSocket.slice(0, 107), "");
    await expect(ControlClient.connect(long)).rejects.toMatchObject({ code: "ERR_RUN_DIR" });
    await expect(connectOrStart(long)).rejects.toMatchObject({ code: "ERR_RUN_DIR" });
    expect(() => prepareRunDir(long)).toThrow("its path is too long for a socket in it");
  });
});

describe("request", () => {
  test("answers are matched with their requests in any order", async () => {
    const { manager } = serve();
    const release: Array<() => void> = [];
    manager.before = () => new Promise<void>((resolve) => release.push(resolve));
    const client = await connected();
    const status = client.request("status", { target: null });
    const detach = client.request("detach", { targets: [], all: true, force: false });
    await until("both calls", () => release.length === 2);
    release[1]?.();
    expect(await detach).toEqual({ results: [] });
    release[0]?.();
    expect(await status).toMatchObject({ devices: [], notes: [] });
  });

  test("a fault comes out with code, hint and exit code", async () => {
    const { manager } = serve();
    manager.before = () => {
      throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot find /x", { hint: "look" });
    };
    const client = await connected();
    await expect(client.request("status", { target: { path: "/x" } })).rejects.toMatchObject({
      name: "ControlError",
      code: "ERR_NOT_ATTACHED",
      message: "cannot find /x",
      hint: "look",
      exitCode: 3,
    });
  });

  test("an older manager is not asked to open an image, nor told what it would refuse", async () => {
    const heard: string[] = [];
    await serveRaw((socket) => {
      socket.write('{"id":1,"result":{"version":"0.0.9","pid":1}}\n');
      socket.on("data", (bytes) => {
        heard.push(String(bytes));
        socket.write('{"id":2,"result":{"devices":[],"notes":[]}}\n');
      });
    });
    const client = await connected();
    const fd = openSync(base, "r");
    await expect(client.request("attach", toAttachParams("/a", {}), fd)).rejects.toMatchObject({
      code: "ERR_CONTROL",
      message: "cannot pass an image to the manager: it is of version 0.0.9, which opens images itself",
      hint: expect.stringContaining("erofs-nbd upgrade"),
    });
    closeSync(fd);
    const target = { path: "/a", seen: { view: "mnt:[1]", file: null } };
    await client.request("status", { target });
    expect(heard.map((line) => JSON.parse(line) as unknown)).toEqual([
      { id: 2, method: "status", params: { target: { path: "/a" } } },
    ]);
  });

  test('a method that an older manager does not know: its error, not "went away"', async () => {
    serve();
    const client = await connected();
    await expect(client.request("future" as "hello", {})).rejects.toMatchObject({ code: "ERR_BAD_ARGUMENT" });
  });

  test("the manager goes away in the middle: every request fails, and so does a later one, at once", async () => {
    const { manager, server } = serve();
    manager.before = () => new Promise<void>(() => {});
    const client = await connected();
    const both = [client.request("status", { target: null }), client.request("mounted", { index: 1 })];
    await until("both calls", () => manager.calls.length === 2);
    server.close();
    for (const one of await Promise.allSettled(both)) expect(one).toMatchObject({ reason: GONE });
    await expect(client.request("hello", {})).rejects.toMatchObject(GONE);
  });

  test("the manager dies in the middle of an answer: half of one is none", async () => {
    await serveRaw((socket) => socket.end('{"id":1,"result":{"version":"1","pi'));
    await expect((await connected()).request("hello", {})).rejects.toMatchObject(GONE);
  });

  test("an answer without a request is ignored", async () => {
    await serveRaw((socket) =>
      socket.write('{"id":99,"result":{}}\n{"id":98,"error":{"message":"x"}}\n{"id":1,"result":{"pid":1}}\n'),
    );
    expect(await (await connected()).request("hello", {})).toEqual({ pid: 1 });
  });

  test("after close requests fail as when the manager went away, and onEnd is not called", async () => {
    serve();
    const client = await connected();
    let ended = false;
    await client.watch(
      () => {},
      () => {
        ended = true;
      },
    );
    client.close();
    await turns(20);
    await expect(client.request("hello", {})).rejects.toMatchObject(GONE);
    expect(ended).toBe(false);
  });
});

describe("watch", () => {
  test("events until the manager goes, and then the end, once", async () => {
    const { manager, server } = serve();
    const client = await connected();
    const events: DeviceEvent[] = [];
    let ends = 0;
    await client.watch(
      (event) => events.push(event),
      () => {
        ends += 1;
      },
    );
    manager.emit("event", { at: "now", device: null, event: "revived" });
    await until("the event", () => events.length === 1);
    server.close();
    await until("the end", () => ends > 0);
    await turns();
    expect([events, ends]).toEqual([[{ at: "now", device: null, event: "revived" }], 1]);
  });
});

describe("a listener that throws", () => {
  test("loses neither the events nor the answers of the same chunk, and its error is uncaught", async () => {
    await serveRaw((socket) => {
      const event = (device: string): string =>
        JSON.stringify({ event: { at: "now", device, event: "revived" } });
      socket.write(`{"id":1,"result":{}}\n${event("a")}\n${event("b")}\n{"id":2,"result":{"pid":7}}\n`);
    });
    const client = await connected();
    const heard: Array<string | null> = [];
    const thrown: unknown[] = [];
    const before = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.once("uncaughtException", (error) => thrown.push(error));
    try {
      const watching = client.watch(
        ({ device }) => {
          heard.push(device);
          if (device === "a") throw new Error("of the program");
        },
        () => {},
      );
      const hello = client.request("hello", {});
      await watching;
      expect(await hello).toEqual({ pid: 7 });
      await until("the error", () => thrown.length === 1);
    } finally {
      for (const listener of before) process.on("uncaughtException", listener);
    }
    expect(heard).toEqual(["a", "b"]);
    expect(thrown).toMatchObject([{ message: "of the program" }]);
  });
});
