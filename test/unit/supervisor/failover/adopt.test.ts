/** Devices that a former manager left, and the kernel's count of reads that takeovers use. */
import { describe, expect, test } from "vitest";
import type { FoundLink } from "../../../../src/supervisor/ports.ts";
import { leavesNoSockets } from "../../../helpers/sockets/descriptors.ts";
import { until } from "../../../helpers/until.ts";
import { Bench } from "../bench.ts";

leavesNoSockets();

describe("the kernel's count of reads, for settling", () => {
  test("is the device's, and 0 while it is not connected yet", async () => {
    const bench = new Bench();
    const counts: Array<number | undefined> = [];
    bench.kernel.hooks.beforeConnect = () => void counts.push(bench.server.last.request.inFlight());
    await bench.device.attach(undefined);
    bench.kernel.inFlight = 5;
    counts.push(bench.server.last.request.inFlight());
    expect(counts).toEqual([0, 5]);
    expect(bench.server.last.request).toMatchObject({ counted: true, linkIndex: 0, device: "one of ours" });
    bench.kernel.iostats = false;
    expect(bench.server.last.request.inFlight()).toBeUndefined();
    await bench.close();
  });

  test("is about no single link if there are several", async () => {
    const bench = await Bench.attached({ connections: 2 });
    expect(bench.server.links.map(({ request }) => request.counted)).toEqual([false, false]);
    await bench.close();
  });

  test("is not kept while an administrator has it off: a fresh link then sends all through its pipe", async () => {
    const bench = await Bench.attached();
    bench.kernel.iostats = false;
    bench.server.last.kill();
    await until("the fresh link", () => bench.server.links.length === 2);
    expect(bench.server.links.map(({ request }) => request.counted)).toEqual([true, false]);
    await bench.outcome();
    await bench.close();
  });

  test("cannot be trusted after a reconnect: reads of the dead link are in it until they are sent again", async () => {
    const bench = await Bench.attached();
    bench.server.last.kill();
    await bench.state("reconnecting");
    await until("the fresh link", () => bench.server.links.length === 2);
    expect(bench.server.last.request.inFlight()).toBeUndefined();
    bench.kernel.inFlight = 2;
    await bench.state("serving");
    expect(bench.server.last.request.inFlight()).toBeUndefined();
    bench.kernel.inFlight = 0;
    await bench.outcome();
    await bench.close();
  });
});

/** A worker's link that has had a request. */
function usedLinkOf(bench: Bench): FoundLink["open"] {
  return (request, observer) => {
    const link = bench.server.open(request, observer);
    link.isUsed = true;
    return link;
  };
}

describe("adopt with links that are served", () => {
  test("a link that the kernel may never have got is replaced, and confirmed when it is proven", async () => {
    const bench = new Bench();
    bench.kernel.identifier = "one of ours";
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.kernel.addDeadSocket();
    const open = bench.server.open.bind(bench.server);
    await bench.device.adopt(7, [{ linkIndex: 0, copyOnly: false, open }], "a dead manager left it behind");
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
    expect(bench.server.links.map(({ isUp, confirmations }) => ({ isUp, confirmations }))).toEqual([
      { isUp: false, confirmations: 0 },
      { isUp: true, confirmations: 1 },
    ]);
    await bench.close();
  });

  test("the request timer is set in an idle moment if the former manager did not set it", async () => {
    const bench = new Bench();
    bench.kernel.identifier = "one of ours";
    bench.kernel.inFlight = 1;
    await bench.device.adopt(7, [{ linkIndex: 0, copyOnly: false, open: usedLinkOf(bench) }], "it died");
    expect(bench.kernel.ioTimeouts).toEqual([]);
    bench.kernel.inFlight = 0;
    await until("the timer", () => bench.kernel.ioTimeouts.length > 0);
    expect(bench.kernel.ioTimeouts).toEqual([bench.device.settings.ioTimeoutMs]);
    await bench.close();
  });

  test("goes on without a failover and with the given history; later deaths are taken over", async () => {
    const bench = new Bench({ connections: 2 });
    bench.kernel.identifier = "one of ours";
    const found = [0, 1].map((linkIndex) => ({
      linkIndex,
      copyOnly: linkIndex === 1,
      open: usedLinkOf(bench),
    }));
    const lastFailover = {
      result: "recovered",
      level: "takeover",
      cause: "long ago",
      causeClass: "link",
      stallMs: 1,
      at: "2026-01-01T00:00:00.000Z",
      strandedReads: 1,
    } as const;
    await bench.device.adopt(7, found, "a dead manager left it behind", {
      past: { requests: 100, readBytes: 1000, readErrors: 1 },
      failovers: { takeovers: 4, reconnects: 3, failedFailovers: 2, handovers: 1 },
      lastFailover,
    });
    expect(bench.device.state).toBe("serving");
    expect(bench.device.describeLinks()).toMatchObject([{ state: "up" }, { state: "up" }]);
    expect(bench.device.lastFailover).toEqual(lastFailover);
    bench.server.links[0]?.request1();
    expect(bench.device.counters).toEqual({
      requests: 101,
      readBytes: 1000,
      readErrors: 1,
      takeovers: 4,
      reconnects: 3,
      failedFailovers: 2,
      handovers: 1,
    });
    expect(bench.server.links.map(({ request }) => request.copyOnly)).toEqual([true, true]);
    bench.server.links[1]?.orphan();
    expect(await bench.outcome()).toMatchObject({ level: "takeover" });
    expect(bench.device.history).toMatchObject({
      past: { requests: 100 },
      failovers: { takeovers: 5 },
      lastFailover: { cause: "worker 1002 was killed by SIGKILL" },
    });
    await bench.close();
  });

  test("a link that no worker serves is replaced, the others stay", async () => {
    const bench = new Bench({ connections: 2 });
    bench.kernel.identifier = "one of ours";
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.kernel.addDeadSocket();
    const served = { linkIndex: 1, copyOnly: false, open: usedLinkOf(bench) };
    await bench.device.adopt(7, [served], "a dead manager left it behind");
    expect(await bench.outcome()).toMatchObject({
      result: "recovered",
      level: "reconnect",
      cause: "a dead manager left it behind",
    });
    expect(bench.device.describeLinks()).toMatchObject([
      { index: 0, state: "up", workerPid: 1002 },
      { index: 1, state: "up", workerPid: 1001 },
    ]);
    await bench.close();
  });
});

test("links that are cut on purpose are replaced like any others", async () => {
  const bench = await Bench.attached();
  bench.device.cutLinks();
  expect(bench.kernel.deadSockets).toEqual([true]);
  bench.device.linkDead();
  expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
  await bench.close();
});
