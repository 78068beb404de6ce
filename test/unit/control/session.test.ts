/**
 * The session without devices, against managers that the test plays: what connects it, what ends a connection, and a
 * search. Its search after a loss is tested with the library's devices.
 */
import { once } from "node:events";
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ControlClient } from "../../../src/control/client.ts";
import type { DeviceEvent, Requests } from "../../../src/control/protocol.ts";
import { chooseRunDir, type RunDir } from "../../../src/control/run-dir.ts";
import { Session } from "../../../src/control/session.ts";
import { ErofsNbdError } from "../../../src/errors.ts";
import { until } from "../../helpers/until.ts";
import { type FakeManager, startFakeManager } from "../cli/fake-manager.ts";

const EVENT: DeviceEvent = { at: "2026-01-02T03:04:05.678Z", device: "/dev/nbd0", event: "revived" };
const never = new AbortController().signal;
const noRequest = (): Promise<never> => Promise.reject(new Error("a request has connected"));

let runDir: RunDir;
let manager: FakeManager | undefined;
let session: Session;
/** Events of the session, in order. */
let heard: string[];
/** Connections that requests have made. */
let reached: number;
/** The answer to status, for tests that hold it back. */
let status: () => Promise<Requests["status"]["result"]>;

const find = (): Promise<ControlClient | undefined> => ControlClient.connect(runDir);

async function reach(): Promise<ControlClient> {
  reached += 1;
  const client = await find();
  if (client === undefined)
    throw new ErofsNbdError("ERR_CONTROL", "cannot ask the manager: it is not running");
  return client;
}

async function start(): Promise<FakeManager> {
  manager = await startFakeManager(runDir.path, { watch: async () => ({}), status: () => status() });
  return manager;
}

async function stop(): Promise<void> {
  await manager?.close();
  manager = undefined;
}

function newSession(connect: () => Promise<ControlClient> = reach): Session {
  session = new Session(connect, { pollMs: 1 });
  session.on("event", ({ event }) => heard.push(event));
  session.on("lost", () => heard.push("lost"));
  session.on("found", (pid) => heard.push(`found ${pid}`));
  return session;
}

beforeEach(() => {
  runDir = chooseRunDir(realpathSync(mkdtempSync(join(tmpdir(), "session-"))));
  heard = [];
  reached = 0;
  status = async () => ({ devices: [], notes: [] });
  newSession();
});
afterEach(async () => {
  session.close();
  await stop();
  rmSync(runDir.path, { recursive: true });
});

/** A manager that accepts connections and answers nothing. `ended` counts the connections that were closed. */
async function startSilent(): Promise<{ accepted: number; ended: number; close(): Promise<void> }> {
  const server = createServer((socket) => {
    silent.accepted += 1;
    socket.on("error", () => {}).on("close", () => (silent.ended += 1));
    socket.resume();
  });
  const silent = {
    accepted: 0,
    ended: 0,
    close: async () => {
      server.close();
      await once(server, "close");
    },
  };
  server.listen(runDir.controlSocket);
  await once(server, "listening");
  return silent;
}

test("a lost connection stays lost until the next request, which connects anew", async () => {
  await start();
  await session.request("status", { target: null });
  await stop();
  await until("the loss", () => heard.length > 0);
  expect(session.isConnected).toBe(false);
  const next = await start();
  expect(heard).toEqual(["lost"]);
  await session.request("status", { target: null });
  next.tell(EVENT);
  await until("an event", () => heard.length > 1);
  expect([reached, heard]).toEqual([2, ["lost", "revived"]]);
});

test("a request that finds no manager fails, and the next one looks again", async () => {
  await expect(session.request("status", { target: null })).rejects.toMatchObject({ code: "ERR_CONTROL" });
  await start();
  expect(await session.request("status", { target: null })).toEqual({ devices: [], notes: [] });
  expect(reached).toBe(2);
});

describe("disconnect", () => {
  test("ends pending requests without `lost`; the next request connects anew", async () => {
    const fake = await start();
    status = () => new Promise(() => {});
    const pending = session.request("status", { target: null });
    await until("the request", () => fake.requests.some(({ method }) => method === "status"));
    session.disconnect();
    await expect(pending).rejects.toMatchObject({ code: "ERR_CONTROL" });
    status = async () => ({ devices: [], notes: ["again"] });
    expect(await session.request("status", { target: null })).toMatchObject({ notes: ["again"] });
    expect([reached, heard]).toEqual([2, []]);
  });

  test("closes a connection that is being made", async () => {
    const silent = await startSilent();
    const pending = session.request("status", { target: null });
    await until("the connection", () => silent.accepted === 1);
    session.disconnect();
    await expect(pending).rejects.toMatchObject({ code: "ERR_CONTROL" });
    await until("its end", () => silent.ended === 1);
    await silent.close();
  });

  test("closes a client that is connected only after it", async () => {
    const silent = await startSilent();
    let connected = (_: ControlClient): void => {};
    newSession(() => new Promise((resolve) => (connected = resolve)));
    const pending = session.request("status", { target: null });
    session.close();
    connected((await find()) as ControlClient);
    await expect(pending).rejects.toMatchObject({ code: "ERR_CONTROL" });
    await until("its end", () => silent.ended === 1);
    await silent.close();
  });
});

describe("use", () => {
  test("takes a client that is connected already", async () => {
    const fake = await start();
    newSession(noRequest);
    await session.use((await find()) as ControlClient);
    await session.request("status", { target: null });
    fake.tell(EVENT);
    await until("the event", () => heard.length > 0);
    expect([session.isConnected, heard]).toEqual([true, ["revived"]]);
  });

  test("closes a second one, and one for a closed session", async () => {
    await start();
    await session.request("status", { target: null });
    const second = (await find()) as ControlClient;
    await session.use(second);
    await expect(second.request("hello", {})).rejects.toMatchObject({ code: "ERR_CONTROL" });
    const third = (await find()) as ControlClient;
    session.close();
    await session.use(third);
    await expect(third.request("hello", {})).rejects.toMatchObject({ code: "ERR_CONTROL" });
  });
});

describe("a search", () => {
  test("finds a manager once it listens, without a request's connection", async () => {
    newSession(noRequest);
    let looks = 0;
    const found = session.search(() => {
      looks += 1;
      return find();
    }, never);
    await until("some looks", () => looks > 3);
    await start();
    expect(await found).toBe(true);
    expect([session.isConnected, heard]).toEqual([true, [`found ${process.pid}`]]);
    // Connected already: the same manager answers.
    expect(await session.search(find, never)).toBe(true);
  });

  test("passes over a manager that goes away before it answers", async () => {
    const server = createServer((socket) => socket.on("error", () => {}).destroy());
    server.listen(runDir.controlSocket);
    await once(server, "listening");
    let looks = 0;
    const found = session.search(() => {
      looks += 1;
      return find();
    }, never);
    await until("some looks", () => looks > 3);
    server.close();
    await once(server, "close");
    await start();
    expect(await found).toBe(true);
  });

  test("ends when it is stopped, also while a manager does not answer", async () => {
    const silent = await startSilent();
    const abort = new AbortController();
    const found = session.search(find, abort.signal);
    await until("the connection", () => silent.accepted === 1);
    abort.abort();
    expect(await found).toBe(false);
    await until("its end", () => silent.ended === 1);
    expect(session.isConnected).toBe(false);
    expect(await session.search(find, abort.signal)).toBe(false);
    await silent.close();
  });

  test("leaves no connection when it is stopped during a look", async () => {
    await start();
    const abort = new AbortController();
    const found = session.search(async () => {
      const client = await find();
      abort.abort();
      return client;
    }, abort.signal);
    expect(await found).toBe(false);
    expect(session.isConnected).toBe(false);
  });

  test("ends with an error where none may be asked", async () => {
    const refused = new ErofsNbdError("ERR_PERMISSION", "cannot talk to the manager: permission denied");
    await expect(session.search(() => Promise.reject(refused), never)).rejects.toBe(refused);
  });
});
