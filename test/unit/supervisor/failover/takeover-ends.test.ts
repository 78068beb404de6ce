/** Takeovers that a detach or a disconnect interrupts, and takeovers that wait for long. */
import { describe, expect, test } from "vitest";
import { leavesNoSockets } from "../../../helpers/sockets/descriptors.ts";
import { turns, until } from "../../../helpers/until.ts";
import { Bench } from "../bench.ts";
import { type Taking, takenOver } from "../fake-server.ts";
import { held, unsafe } from "./steps.ts";

leavesNoSockets();

const waitingForAborted: Taking = (_link, signal) =>
  new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(new Error("no worker in time")));
  });

describe("the end of a device during a takeover", () => {
  test("detach: the takeover is stopped, its failover has failed, everything is released", async () => {
    const bench = await Bench.attached();
    const hold = held();
    bench.server.takings.push(hold.taking);
    bench.server.last.orphan();
    await until("the takeover", hold.begun);
    await bench.device.detach();
    expect(hold.aborted()).toBe(true);
    expect(bench.outcomes).toMatchObject([{ result: "failed", level: "takeover" }]);
    expect(bench.device.state).toBe("detached");
    expect(bench.server.last.isUp).toBe(false);
    await bench.close();
  });

  test("a takeover that ignores its signal ends after the device: it has no effect", async () => {
    const bench = await Bench.attached();
    let go = (): void => {};
    bench.server.takings.push(async (link) => {
      await new Promise<void>((resolve) => {
        go = resolve;
      });
      link.served();
      return { safe: true, unanswered: 1 };
    });
    bench.server.last.orphan();
    await until("the takeover", () => bench.server.last.takeovers === 1);
    await bench.device.detach();
    go();
    await turns(20);
    expect(bench.device.state).toBe("detached");
    expect(bench.outcomes).toMatchObject([{ result: "failed" }]);
    await bench.close();
  });

  test("the kernel disconnects it, and no worker is there to read the disconnect request", async () => {
    const bench = await Bench.attached();
    const hold = held();
    bench.server.takings.push(hold.taking, hold.taking, hold.taking);
    bench.server.last.orphan();
    await until("the takeover", hold.begun);
    bench.kernel.forget();
    await bench.state("detached");
    expect(bench.outcomes).toMatchObject([{ result: "failed" }]);
    expect(bench.released).toEqual(["nbd7 was disconnected by the kernel or by another program"]);
    await bench.close();
  });

  test("the successor reads the disconnect request: an ordinary end", async () => {
    const bench = await Bench.attached();
    bench.server.takings.push(async (link) => {
      link.served();
      bench.kernel.sayGoodbye();
      return { safe: true, unanswered: 0 };
    });
    bench.server.last.orphan();
    await bench.state("detached");
    expect(bench.outcomes).toHaveLength(1);
    expect(bench.kernel.reconfigures).toEqual([]);
    await bench.close();
  });
});

describe("takeovers that do not happen", () => {
  test("put off because its workers die: stalled, with the reason, until it is served again", async () => {
    const bench = await Bench.attached();
    const hold = held();
    bench.server.takings.push(async (link, signal, waiting) => {
      waiting("it crashed 4 workers");
      waiting("it crashed 5 workers");
      return hold.taking(link, signal, waiting);
    });
    bench.server.last.orphan();
    await bench.state("stalled");
    expect(bench.device.stalledReason).toBe("it crashed 5 workers");
    expect(bench.said).toEqual(["stalled: it crashed 4 workers", "stalled: it crashed 5 workers"]);
    expect(bench.outcomes).toEqual([]);
    await until("the takeover", hold.begun);
    hold.go(takenOver(3));
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "takeover", strandedReads: 3 });
    expect(bench.states).toEqual(["serving", "taking-over", "stalled", "serving"]);
    expect(bench.device.stalledReason).toBeNull();
    await bench.close();
  });

  test("no worker until the quick attempts are spent: stalled, and attempts go on", async () => {
    const bench = await Bench.attached();
    for (let attempt = 0; attempt < 5; attempt += 1) bench.server.takings.push(waitingForAborted);
    bench.server.last.orphan();
    await bench.state("stalled");
    expect(bench.device.stalledReason).toBe("no worker in time");
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "takeover" });
    expect(bench.server.last.takeovers).toBe(6);
    await bench.close();
  });

  test("the socket of a stalled link dies: a fresh one, and the outcome is a reconnect", async () => {
    const bench = await Bench.attached();
    const hold = held();
    bench.server.takings.push(async (link, signal, waiting) => {
      waiting("its workers die");
      return hold.taking(link, signal, waiting);
    });
    bench.server.last.orphan();
    await bench.state("stalled");
    await until("the takeover", hold.begun);
    bench.kernel.killSocket(0);
    bench.device.resynchronise();
    await until("the death is noticed", () => bench.device.describeLinks()[0]?.state === "down");
    hold.go(unsafe);
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });

  test("longer than the kernel holds reads: they fail, and a later worker revives the device", async () => {
    const bench = await Bench.attached({ deadTimeoutSeconds: 0.1 });
    const hold = held();
    bench.server.takings.push(hold.taking);
    bench.server.last.orphan();
    await until("the takeover", hold.begun);
    await bench.state("failed");
    expect(bench.outcomes).toMatchObject([{ result: "failed", level: "takeover" }]);
    expect(bench.kernel.deadSockets).toEqual([true]);
    hold.go(unsafe);
    await bench.state("serving");
    expect(bench.said.at(-1)).toBe("revived");
    expect(bench.kernel.links).toEqual([bench.server.last]);
    expect(bench.device.counters).toMatchObject({ takeovers: 0, reconnects: 0, failedFailovers: 1 });
    await bench.close();
  });
});
