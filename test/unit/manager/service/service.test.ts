/** service.ts against a real datagram socket: the messages, and beats that stop when something is stuck. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EventEmitter } from "eventemitter3";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  complaintAbout,
  describeDevices,
  type ServedManager,
  Service,
} from "../../../../src/manager/service/service.ts";
import { DatagramReceiver } from "../../../helpers/sockets/datagram-receiver.ts";
import { until } from "../../../helpers/until.ts";

type Overview = ServedManager["overview"];

/** The part of a manager that a service sees, to be set by a test. */
class FakeManager extends EventEmitter {
  overview: Overview = [];
  unwatchedMs = 0;
  isStartingWorker = false;
  workerPids: number[] = [];
  renewals = 0;
  renewWorkers = async (): Promise<never> => {
    this.renewals += 1;
    throw new Error("there are no workers");
  };
}

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-service-"));
afterAll(() => rmSync(directory, { recursive: true }));

let receiver: DatagramReceiver;
let manager: FakeManager;
let service: Service;
let said: string[];
let made = 0;

beforeEach(() => {
  made += 1;
  receiver = new DatagramReceiver(join(directory, `s${made}`));
  manager = new FakeManager();
  said = [];
});
afterEach(() => {
  service?.stopping();
  receiver.close();
});

function start(watchdogMs?: number): void {
  const add = (message: string): void => void said.push(message);
  service = new Service({ socket: receiver.address, watchdogMs }, { info: add, warn: add, error: add });
  service.started(manager as unknown as ServedManager);
}

const device = (name: string, state: Overview[number]["state"], silentMs = 0): Overview[number] => ({
  name,
  state,
  silentMs,
});

/** Waits for so many more beats. */
async function beats(count: number): Promise<void> {
  const before = receiver.values("WATCHDOG").length;
  await until(`${count} more beats`, () => receiver.values("WATCHDOG").length >= before + count);
}

describe("a service reports", () => {
  test("that it adopts devices, then that it is ready with their states, then that it ends", async () => {
    manager.overview = [device("nbd0", "serving")];
    start();
    await receiver.line("READY");
    service.stopping();
    await receiver.line("STOPPING");
    expect(receiver.messages).toEqual([
      { STATUS: "looking for devices of a former manager" },
      { READY: "1", STATUS: "1 device: 1 serving", MAINPID: String(process.pid) },
      { STOPPING: "1", STATUS: "ending; devices are served on by their workers" },
    ]);
    expect([manager.listenerCount("event"), manager.listenerCount("renewing")]).toEqual([0, 0]);
  });

  test("that its start takes longer, until it is ready", async () => {
    const log = { info: () => {}, warn: () => {}, error: () => {} };
    service = new Service({ socket: receiver.address, watchdogMs: undefined }, log, 20);
    const asked = (): string[] => receiver.values("EXTEND_TIMEOUT_USEC");
    await until("three times", () => asked().length >= 3);
    service.started(manager as unknown as ServedManager);
    await receiver.line("READY");
    const before = asked().length;
    service.stopping();
    await receiver.line("STOPPING");
    expect(asked()).toHaveLength(before);
    expect(new Set(asked())).toEqual(new Set(["60000000"]));
  });

  test("many changes of state at once as one status", async () => {
    start();
    manager.overview = Array.from({ length: 500 }, (_, at) => device(`nbd${at}`, "serving"));
    for (let n = 0; n < 500; n += 1) manager.emit("event", {});
    await receiver.line("STATUS", "500 devices: 500 serving");
    manager.overview = [device("nbd0", "stalled"), ...manager.overview.slice(1)];
    manager.emit("event", {});
    await receiver.line("STATUS", "500 devices: 1 stalled (nbd0), 499 serving");
    expect(receiver.values("STATUS")).toHaveLength(4);
  });

  test("a replacement of the workers as a reload, with the monotonic time; a refused one changes nothing", async () => {
    start();
    const before = process.hrtime.bigint() / 1000n;
    manager.emit("renewing", true);
    const told = await receiver.line("RELOADING", "1");
    expect(BigInt(told["MONOTONIC_USEC"] ?? 0) >= before).toBe(true);
    expect(BigInt(told["MONOTONIC_USEC"] ?? 0) <= process.hrtime.bigint() / 1000n).toBe(true);
    manager.emit("renewing", true);
    manager.emit("renewing", false);
    manager.emit("renewing", false);
    await until("it is over", () => receiver.values("READY").length === 2);
    service.stopping();
    await receiver.line("STOPPING");
    expect(receiver.messages.map((message) => Object.keys(message)[0])).toEqual([
      "STATUS",
      "READY",
      "RELOADING",
      "READY",
      "STOPPING",
    ]);
  });
});

describe("the watchdog", () => {
  test("gets no beats where it is not configured", async () => {
    start();
    manager.overview = [device("nbd0", "serving")];
    manager.emit("event", {});
    await receiver.line("STATUS", /1 device/);
    expect(receiver.values("WATCHDOG")).toEqual([]);
  });

  test("gets beats while nothing is stuck", async () => {
    manager.overview = [device("nbd0", "reconnecting", 59_000)];
    start(40);
    await beats(5);
    expect(said).toEqual([]);
  });

  const troubles: Array<[what: string, (is: boolean) => void, words: RegExp]> = [
    [
      "while a device is stuck between two states",
      (is) => {
        manager.overview = [device("nbd0", "serving"), device("nbd3", "taking-over", is ? 61_000 : 1)];
      },
      /nbd3 has been taking-over for 61 s without progress/,
    ],
    [
      "while the pool does not check its workers",
      (is) => {
        manager.unwatchedMs = is ? 6000 : 10;
      },
      /the workers have not been checked for 6 s/,
    ],
  ];
  test.each(troubles)("gets no beat %s, and the status says why; then beats again", async (_, set, words) => {
    set(false);
    start(40);
    await beats(2);
    set(true);
    await receiver.line("STATUS", words);
    const count = receiver.values("WATCHDOG").length;
    // It checks several times meanwhile: none of these checks may send a beat.
    let looks = 0;
    const { overview } = manager;
    Object.defineProperty(manager, "overview", {
      configurable: true,
      get: () => {
        looks += 1;
        return overview;
      },
    });
    await until("some more checks", () => looks > 4);
    expect(receiver.values("WATCHDOG")).toHaveLength(count);
    Object.defineProperty(manager, "overview", { configurable: true, writable: true, value: overview });
    set(false);
    await beats(2);
    expect(said).toEqual([expect.stringMatching(words)]);
    expect(receiver.values("STATUS").at(-1)).toMatch(/device/);
  });

  test("gets beats while a device waits for the start of a worker", async () => {
    manager.overview = [device("nbd3", "taking-over", 61_000)];
    manager.isStartingWorker = true;
    start(40);
    await beats(3);
    expect(said).toEqual([]);
  });

  test("gets no beat after the end", async () => {
    start(20);
    await beats(1);
    service.stopping();
    await receiver.line("STOPPING");
    const count = receiver.messages.length;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(receiver.messages).toHaveLength(count);
  });
});

describe("workers of another control group", () => {
  test("are replaced; those of this group, and those that have died, are not", async () => {
    const child = spawn("sleep", ["60"]);
    manager.workerPids = [child.pid ?? -1, process.pid, 2 ** 22 + 1];
    start();
    expect(manager.renewals).toBe(0);
    child.kill();
  });
});

test("complaintAbout: values at the limits are accepted", () => {
  expect(complaintAbout([], 0)).toBeUndefined();
  expect(complaintAbout([device("nbd0", "stalled", 60_000)], 5000)).toBeUndefined();
});

test("describeDevices: states that need attention come first, with the names of a few devices", () => {
  const many = Array.from({ length: 4 }, (_, at) => device(`nbd${at}`, "reconnecting"));
  const overview = [
    device("nbd9", "serving"),
    ...many,
    device("nbd5", "failed"),
    device("a device without an index yet", "attaching"),
  ];
  expect(describeDevices({ overview })).toBe(
    "7 devices: 1 failed (nbd5), 4 reconnecting, 1 attaching (a device without an index yet), 1 serving",
  );
  expect(describeDevices({ overview: [] })).toBe("no devices");
});
