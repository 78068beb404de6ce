/** The library's connection and device over a real control socket, with a manager that does as the test says. */
import { existsSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ControlClient } from "../../../src/control/client.ts";
import type { DeviceEvent, DeviceStatus } from "../../../src/control/protocol.ts";
import { chooseRunDir, type RunDir } from "../../../src/control/run-dir.ts";
import { Session } from "../../../src/control/session.ts";
import { ErofsNbdError } from "../../../src/errors.ts";
import { attachThrough } from "../../../src/library/attach.ts";
import type { AttachedDevice, AttachedDeviceEvents } from "../../../src/library/attached-device.ts";
import { find, list } from "../../../src/library/find.ts";
import { toAttachParams } from "../../../src/library/options.ts";
import { ControlServer } from "../../../src/manager/control-server/control-server.ts";
import { until } from "../../helpers/until.ts";
import { FakeManager } from "../manager/fake-manager.ts";

const QUIET = { info: () => {}, warn: () => {}, error: () => {} };
const STATUS = {
  device: "/dev/nbd5",
  index: 5,
  identifier: "mine",
  sizeBytes: 4096,
  blockSizeBytes: 512,
  state: "serving",
} as unknown as DeviceStatus;

/** Long enough for a look or two. */
const PATIENCE_MS = 400;

class DeviceManager extends FakeManager {
  override async describe(): Promise<DeviceStatus> {
    this.tell({ event: "attached", image: "/a" });
    this.tell({ event: "state", state: "taking-over", before: "serving" });
    return STATUS;
  }

  override async detach(...params: Parameters<FakeManager["detach"]>): Promise<[]> {
    const results = await super.detach(...params);
    this.tell({ event: "detached", message: "detached" });
    return results;
  }

  tell(event: object, device = "/dev/nbd5"): void {
    this.emit("event", { at: "now", device, ...event } as DeviceEvent);
  }
}

let runDir: RunDir;
let manager: DeviceManager;
let server: ControlServer;
let session: Session;
let device: AttachedDevice;
let image: string;
let letGo: number;
let closesSession: boolean;
/** Managers that the session wanted started. */
let starts: number;
let mayStart: boolean;
let heard: unknown[][];

function serve(): void {
  server = new ControlServer(runDir.controlSocket, manager, QUIET);
}

beforeEach(async () => {
  runDir = chooseRunDir(realpathSync(mkdtempSync(join(tmpdir(), "erofs-nbd-session-"))));
  manager = new DeviceManager();
  manager.statusAnswer = [STATUS];
  letGo = 0;
  closesSession = false;
  heard = [];
  serve();
  starts = 0;
  mayStart = false;
  const find = () => ControlClient.connect(runDir);
  const reach = async (): Promise<ControlClient> => {
    const client = await find();
    if (client !== undefined) return client;
    starts += 1;
    if (!mayStart) throw new Error("no manager is running");
    serve();
    return (await find()) as ControlClient;
  };
  session = new Session(reach, { afterLoss: { find, mayStart: () => mayStart, patienceMs: PATIENCE_MS } });
  image = join(runDir.path, "image");
  writeFileSync(image, "some bytes");
  device = await attachThrough(session, toAttachParams(image, {}), () => {
    letGo += 1;
    if (closesSession) session.close();
  });
  const names: ReadonlyArray<keyof AttachedDeviceEvents> = [
    "state",
    "failover",
    "moved",
    "stalled",
    "readErrors",
    "managerLost",
    "managerFound",
    "detached",
  ];
  for (const name of names) device.on(name, (...words: unknown[]) => heard.push([name, ...words]));
});
afterEach(() => {
  session.close();
  server.close();
  rmSync(runDir.path, { recursive: true });
});

describe("an attached device", () => {
  test("says what it is, and tells what happened since it was attached, in order", async () => {
    expect(device).toMatchObject({ device: "/dev/nbd5", index: 5, identifier: "mine", isDetached: false });
    manager.tell({
      event: "failover",
      result: "recovered",
      level: "takeover",
      cause: "x",
      stallMs: 1,
      strandedReads: 2,
    });
    manager.tell({ event: "moved", workerPid: 7, stallMs: 3 });
    manager.tell({ event: "stalled", message: "why" }, "/dev/nbd6");
    manager.tell({ event: "read-errors", message: "torn", count: 4 });
    await until("all is heard", () => heard.length === 4);
    expect(heard).toEqual([
      ["state", "taking-over", "serving"],
      ["failover", { result: "recovered", level: "takeover", cause: "x", stallMs: 1, strandedReads: 2 }],
      ["moved", 7, 3],
      ["readErrors", "torn", 4],
    ]);
    expect(await device.status()).toEqual(STATUS);
  });

  test("detaches once, and `detached` is emitted once, however the device ends", async () => {
    closesSession = true;
    await device.detach({ force: true });
    manager.tell({ event: "detached", message: "late" });
    await device.detach();
    await device[Symbol.asyncDispose]();
    expect(manager.calls.filter((call) => call.startsWith("detach"))).toEqual([
      'detach [{"index":5}] false true',
    ]);
    expect(device.isDetached).toBe(true);
    expect(heard.filter(([name]) => name === "detached")).toEqual([["detached", "detached"]]);
    expect(letGo).toBe(1);
  });

  test("never detaches another device that has its node by now", async () => {
    manager.statusAnswer = [{ ...STATUS, identifier: "somebody else's" }];
    await expect(device.status()).rejects.toMatchObject({ code: "ERR_NOT_ATTACHED" });
    await device.detach();
    expect(manager.calls.some((call) => call.startsWith("detach"))).toBe(false);
    expect(device.isDetached).toBe(true);
  });

  test("outlives its manager: the next one is found, and events go on", async () => {
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    serve();
    await until("the next", () => heard.some(([name]) => name === "managerFound"));
    expect(heard.find(([name]) => name === "managerFound")).toEqual(["managerFound", process.pid]);
    manager.tell({ event: "stalled", message: "why" });
    await until("an event", () => heard.some(([name]) => name === "stalled"));
    expect(await device.status()).toEqual(STATUS);
  });

  test("that ended while no manager ran is told as ended", async () => {
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    manager.statusAnswer = [];
    serve();
    await until("the end", () => heard.some(([name]) => name === "detached"));
  });

  test("a manager that goes is waited for, and none is started where that is a service's matter", async () => {
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    await sleep(2 * PATIENCE_MS);
    expect(starts).toBe(0);
    serve();
    await until("the next", () => heard.some(([name]) => name === "managerFound"));
    expect(starts).toBe(0);
  });

  test("where nothing else starts one, the session does, but not at once", async () => {
    mayStart = true;
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    const lostAtMs = performance.now();
    await until("the next", () => heard.some(([name]) => name === "managerFound"));
    expect(starts).toBe(1);
    expect(performance.now() - lostAtMs).toBeGreaterThan(PATIENCE_MS - 50);
  });

  test("a request starts a manager at once, and that one is found", async () => {
    mayStart = true;
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    expect(await device.status()).toEqual(STATUS);
    expect(starts).toBe(1);
    await until("the next", () => heard.some(([name]) => name === "managerFound"));
    expect(starts).toBe(1);
  });

  test("that was let go of says nothing more", async () => {
    device.close();
    device.close();
    manager.tell({ event: "stalled", message: "why" });
    await device.status();
    expect([letGo, heard.filter(([name]) => name === "stalled")]).toEqual([1, []]);
  });
});

describe("an attach that is aborted", () => {
  const params = () => toAttachParams(image, {});

  test("beforehand: nothing is asked", async () => {
    manager.calls.length = 0;
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(attachThrough(session, params(), () => {}, signal)).rejects.toMatchObject({
      code: "ERR_INTERRUPTED",
      cause: { message: "enough" },
    });
    expect(manager.calls).toEqual([]);
  });

  test("meanwhile: it is finished, and undone", async () => {
    const abort = new AbortController();
    manager.calls.length = 0;
    manager.before = (call) => {
      if (call.startsWith("attach")) abort.abort();
    };
    const attaching = attachThrough(session, params(), () => {}, abort.signal);
    await expect(attaching).rejects.toMatchObject({
      code: "ERR_INTERRUPTED",
      message: "cannot attach: it was aborted",
    });
    expect(manager.calls).toEqual([
      `attach ${image}`,
      'status {"index":5}',
      'detach [{"index":5}] false false',
    ]);
  });

  test("and cannot be undone: says so", async () => {
    const abort = new AbortController();
    manager.before = (call) => {
      if (call.startsWith("attach")) abort.abort();
      if (call.startsWith("detach")) throw new ErofsNbdError("ERR_DEVICE_MOUNTED", "cannot detach: mounted");
    };
    await expect(attachThrough(session, params(), () => {}, abort.signal)).rejects.toThrow(
      "cannot attach: it was aborted, and /dev/nbd5 is still attached: cannot detach: mounted",
    );
  });
});

describe("find and list", () => {
  test("a device that is attached already: what it is, what happens to it, and its end", async () => {
    device.close();
    const found = await find(5, { runDir: runDir.path });
    expect(found).toMatchObject({ device: "/dev/nbd5", index: 5, identifier: "mine", isDetached: false });
    let why: string | undefined;
    found?.on("stalled", (message) => {
      why = message;
    });
    manager.tell({ event: "stalled", message: "nobody serves" });
    await until("the event", () => why !== undefined);
    expect(why).toBe("nobody serves");
    await found?.detach();
    expect(found?.isDetached).toBe(true);
    expect(manager.calls).toContain('status {"index":5}');
  });

  test("what happens while the answer is on its way is told, too", async () => {
    manager.before = (call) => {
      if (call.startsWith("status"))
        manager.tell({ event: "state", state: "taking-over", before: "serving" });
    };
    const states: string[] = [];
    const [found] = await list({ runDir: runDir.path });
    found?.on("state", (state) => states.push(state));
    await until("the state", () => states.length > 0);
    found?.close();
  });

  test("a target in every spelling, and a path, which is resolved", async () => {
    for (const target of ["/dev/nbd5", "nbd5", "5", 5, runDir.path, pathToFileURL(runDir.path)])
      (await find(target, { runDir: runDir.path }))?.close();
    const asked = manager.calls.filter((call) => call.startsWith("status"));
    expect(asked.slice(0, 4)).toEqual(Array(4).fill('status {"index":5}'));
    const paths = asked.slice(4).map((call) => call.replace(/,"seen":.*\}\}\}$/, "}"));
    expect(paths).toEqual(Array(2).fill(`status {"path":${JSON.stringify(runDir.path)}}`));
  });

  test("not attached, or still without a node: nothing", async () => {
    manager.before = () => {
      throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot find nbd6: it is not attached");
    };
    expect(await find(6, { runDir: runDir.path })).toBeUndefined();
    manager.before = () => {};
    manager.statusAnswer = [{ ...STATUS, device: null, index: null }];
    expect(await list({ runDir: runDir.path })).toEqual([]);
  });

  test("of several the first by index; the list is in that order", async () => {
    manager.statusAnswer = [{ ...STATUS, device: "/dev/nbd9", index: 9 }, STATUS];
    const found = await find("/images/a", { runDir: runDir.path });
    const all = await list({ runDir: runDir.path });
    expect([found?.index, all.map(({ index }) => index)]).toEqual([5, [5, 9]]);
    for (const one of [found, ...all]) one?.close();
  });

  test("without a manager and without records, none is started", async () => {
    const empty = join(runDir.path, "empty");
    expect(await find("nbd0", { runDir: empty })).toBeUndefined();
    expect(await list({ runDir: empty })).toEqual([]);
    expect(existsSync(empty)).toBe(false);
  });

  test("what can name no device is refused", async () => {
    for (const target of ["", -1, 1.5, Number.NaN, null, {}])
      await expect(find(target as string, { runDir: runDir.path })).rejects.toMatchObject({
        code: "ERR_BAD_ARGUMENT",
      });
  });
});
