/** The library: an attached device, its events, its end, and the managers that it outlives. */
import { describe, expect, test } from "vitest";
import { ErofsNbdError } from "../../../src/errors.ts";
import { attachThrough } from "../../../src/library/attach.ts";
import { toAttachParams } from "../../../src/library/options.ts";
import { until } from "../../helpers/until.ts";
import {
  device,
  habits,
  heard,
  image,
  letGo,
  manager,
  STATUS,
  serve,
  server,
  session,
  someLooks,
  starts,
  stopClock,
  useAttachedDevice,
  waitOutPatience,
} from "./library-rig.ts";

useAttachedDevice();

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
    habits.closesSession = true;
    await device.detach({ force: true });
    manager.tell({ event: "detached", message: "late" });
    await device.detach();
    await device[Symbol.asyncDispose]();
    expect(manager.calls.filter((call) => call.startsWith("detach"))).toEqual([
      'detach [{"identifier":"mine"}] false true',
    ]);
    expect(device.isDetached).toBe(true);
    expect(heard.filter(([name]) => name === "detached")).toEqual([["detached", "detached"]]);
    expect(letGo).toBe(1);
  });

  test("never detaches another device that has its node by now", async () => {
    manager.statusAnswer = [{ ...STATUS, identifier: "another manager's" }];
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

  test("that ended while no manager ran is reported as detached", async () => {
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    manager.statusAnswer = [];
    serve();
    await until("the end", () => heard.some(([name]) => name === "detached"));
  });

  test("waits for the next manager, and starts none where a service does", async () => {
    stopClock();
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    waitOutPatience();
    await someLooks();
    expect(starts).toBe(0);
    serve();
    await until("the next", () => heard.some(([name]) => name === "managerFound"));
    expect(starts).toBe(0);
  });

  test("has its session start a manager, after a while, where nothing else does", async () => {
    habits.mayStart = true;
    stopClock();
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    await someLooks();
    expect(starts).toBe(0);
    waitOutPatience();
    await until("the next", () => heard.some(([name]) => name === "managerFound"));
    expect(starts).toBe(1);
  });

  test("starts a manager at once for a request, and finds that one", async () => {
    habits.mayStart = true;
    server.close();
    await until("the loss", () => heard.some(([name]) => name === "managerLost"));
    expect(await device.status()).toEqual(STATUS);
    expect(starts).toBe(1);
    await until("the next", () => heard.some(([name]) => name === "managerFound"));
    expect(starts).toBe(1);
  });

  test("emits no events any more once it is closed", async () => {
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
      'detach [{"identifier":"mine"}] false false',
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
