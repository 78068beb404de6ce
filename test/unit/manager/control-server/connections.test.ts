/** The control socket and its connections: who may connect, loans of connections that drop, watchers. */
import { chmodSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ControlServer } from "../../../../src/manager/control-server/control-server.ts";
import { SOCK_STREAM } from "../../../../src/sys/libc/sockets.ts";
import { asNobody, canBeNobody } from "../../../helpers/processes/as-nobody.ts";
import { connectUnix } from "../../../helpers/sockets/connect-unix.ts";
import { turns, until } from "../../../helpers/until.ts";
import { RawPeer } from "./raw-peer.ts";
import {
  ATTACH,
  connect,
  directory,
  HELLO,
  line,
  logged,
  manager,
  path,
  peers,
  server,
  useControlServer,
} from "./server-rig.ts";

useControlServer();

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

  test("replaces a dead manager's socket, or any file in its place", () => {
    const stale = join(directory, "stale.sock");
    writeFileSync(stale, "");
    const quiet = { info: () => {}, warn: () => {}, error: () => {} };
    const other = new ControlServer(stale, manager, quiet);
    expect(statSync(stale).isSocket()).toBe(true);
    other.close();
  });

  test("ends every connection when it is closed", async () => {
    const peer = await connect();
    peer.send(HELLO);
    await peer.answer(1);
    server.close();
    await peer.end();
  });

  test.runIf(canBeNobody)(
    "cuts another user off before its request is read, even if the file mode allows it",
    async () => {
      chmodSync(directory, 0o755);
      chmodSync(path, 0o666);
      const peer = RawPeer.over(asNobody(() => connectUnix(path, SOCK_STREAM)));
      peers.push(peer);
      peer.send(HELLO);
      await peer.end();
      expect(peer.answers).toEqual([]);
      expect(logged).toEqual([`Refused a control connection of process ${process.pid}, user 65534`]);
    },
  );

  test("refuses the 257th peer, and the others are served", async () => {
    for (let count = 0; count < 256; count += 1) await connect();
    await until("all accepted", () => server.connectionCount === 256);
    const last = await connect();
    await last.end();
    expect(logged).toEqual([
      `Refused a control connection of process ${process.pid}, user ${process.getuid?.()}`,
    ]);
    peers[0]?.send(HELLO);
    expect(await peers[0]?.answer(1)).toMatchObject([{ id: 1, result: { pid: process.pid } }]);
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
