/** Workers die and their sockets stay: takeovers, and the reconnects after unsafe ones. */
import { describe, expect, test } from "vitest";
import { leavesNoSockets } from "../../../helpers/sockets/descriptors.ts";
import { turns, until } from "../../../helpers/until.ts";
import { Bench } from "../bench.ts";
import { type FakeLink, takenOver } from "../fake-server.ts";
import { held, unsafe, WHY } from "./steps.ts";

leavesNoSockets();

describe("a worker that is gone", () => {
  test("another takes over the same socket; the kernel gets no command; there is one outcome", async () => {
    const bench = await Bench.attached();
    bench.server.takings.push(takenOver(8));
    const link = bench.server.last;
    link.orphan();
    expect(bench.device.state).toBe("taking-over");
    expect(bench.device.describeLinks()).toMatchObject([{ state: "down" }]);
    expect(await bench.outcome()).toMatchObject({
      result: "recovered",
      level: "takeover",
      cause: "worker 1001 was killed by SIGKILL",
      strandedReads: 8,
    });
    expect(bench.device.state).toBe("serving");
    expect(bench.states).toEqual(["serving", "taking-over", "serving"]);
    expect(bench.kernel.reconfigures).toEqual([]);
    expect(bench.device.describeLinks()).toEqual([{ index: 0, state: "up", workerPid: 2001, generation: 1 }]);
    expect(bench.device.counters).toMatchObject({ takeovers: 1, reconnects: 0, failedFailovers: 0 });
    expect(link.takeovers).toBe(1);
    expect(bench.said).toEqual([]);
    await bench.close();
  });

  test("time in which reads stood still before the death was noticed is in the stall", async () => {
    const bench = await Bench.attached();
    bench.server.last.orphan("worker 1001 served nothing for 60 s; it was killed", 60_000);
    const outcome = await bench.outcome();
    expect(outcome.stallMs).toBeGreaterThanOrEqual(60_000);
    expect(outcome.cause).toBe("worker 1001 served nothing for 60 s; it was killed");
    bench.server.last.orphan();
    expect((await bench.outcome(2)).stallMs).toBeLessThan(60_000);
    await bench.close();
  });

  test("one of several links: the others are served all the time", async () => {
    const bench = await Bench.attached({ connections: 3 });
    bench.server.links[1]?.orphan();
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "takeover" });
    expect(bench.server.links.map(({ takeovers }) => takeovers)).toEqual([0, 1, 0]);
    expect(bench.device.describeLinks().map(({ workerPid }) => workerPid)).toEqual([1001, 2002, 1003]);
    await bench.close();
  });

  test("all of several links: one failover, whose outcome has the sum of their reads", async () => {
    const bench = await Bench.attached({ connections: 3 });
    bench.server.takings.push(takenOver(2), takenOver(3), takenOver(4));
    for (const link of bench.server.links) link.orphan();
    expect(await bench.outcome()).toMatchObject({ level: "takeover", strandedReads: 9 });
    expect(bench.failovers).toBe(1);
    expect(bench.device.counters.takeovers).toBe(1);
    await bench.close();
  });

  test("a link of a former generation loses its worker: no failover", async () => {
    const bench = await Bench.attached();
    const first = bench.server.last;
    bench.kernel.killSocket(0);
    bench.device.linkDead();
    await bench.outcome();
    first.orphan();
    await turns();
    expect(bench.device.state).toBe("serving");
    expect(bench.failovers).toBe(1);
    await bench.close();
  });

  test("a handover is counted and reported, and is no failover", async () => {
    const bench = await Bench.attached();
    bench.server.last.move(3.5);
    expect(bench.said).toEqual(["moved to 2001 in 3.5 ms"]);
    expect(bench.device.counters).toMatchObject({ handovers: 1, takeovers: 0, reconnects: 0 });
    expect(bench.device.describeLinks()).toMatchObject([{ state: "up", workerPid: 2001 }]);
    expect(bench.states).toEqual(["serving"]);
    await bench.close();
  });
});

describe("the successor", () => {
  test("dies while it takes over: taken over again, in the same failover", async () => {
    const bench = await Bench.attached();
    const link = bench.server.last;
    bench.server.takings.push(async () => {
      link.served();
      link.orphan();
      return { safe: true, unanswered: 5 };
    }, takenOver(2));
    link.orphan();
    const outcome = await bench.outcome();
    expect(outcome).toMatchObject({ level: "takeover", cause: "worker 1001 was killed by SIGKILL" });
    expect(link.takeovers).toBe(2);
    expect(bench.device.describeLinks()).toMatchObject([{ state: "up", workerPid: 3001 }]);
    expect(bench.failovers).toBe(1);
    await bench.close();
  });

  test("dies afterwards: another failover, with an outcome of its own", async () => {
    const bench = await Bench.attached();
    for (const round of [1, 2, 3]) {
      bench.server.last.orphan();
      expect((await bench.outcome(round)).cause).toBe(`worker ${round}001 was killed by SIGKILL`);
    }
    expect(bench.device.counters.takeovers).toBe(3);
    await bench.close();
  });

  test("dies in the turn in which the outcome is reported: it is noticed", async () => {
    const bench = await Bench.attached();
    bench.device.once("failover", () => bench.server.last.orphan());
    bench.server.last.orphan();
    await bench.outcome(2);
    await bench.state("serving");
    expect(bench.server.last.takeovers).toBe(2);
    await bench.close();
  });
});

describe("a takeover that is not safe", () => {
  test("the link is replaced by a fresh one, and the outcome has both reasons", async () => {
    const bench = await Bench.attached();
    bench.server.takings.push(unsafe);
    const first = bench.server.last;
    const dead: boolean[][] = [];
    bench.kernel.hooks.beforeReconfigure = () => void dead.push(bench.kernel.deadSockets);
    first.orphan();
    expect(await bench.outcome()).toMatchObject({
      result: "recovered",
      level: "reconnect",
      cause: `worker 1001 was killed by SIGKILL; taking over was not safe: ${WHY}`,
    });
    expect(bench.states).toEqual(["serving", "taking-over", "reconnecting", "serving"]);
    expect(dead).toEqual([[true]]);
    expect(bench.kernel.links).toEqual([bench.server.last]);
    expect(bench.server.last).not.toBe(first);
    expect(bench.device.counters).toMatchObject({ takeovers: 0, reconnects: 1 });
    await until("its socket is released", () => !first.isUp);
    await bench.close();
  });

  test("of one link among several: only that one is replaced", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.server.takings.push(takenOver(1), unsafe);
    const [first] = bench.server.links;
    for (const link of bench.server.links) link.orphan();
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
    expect(bench.kernel.reconfigures.map(({ sockets }) => sockets?.length)).toEqual([1]);
    expect(bench.kernel.links).toEqual([first, bench.server.last]);
    await bench.close();
  });

  test("the socket dies while it is taken over: reconnect, regardless of the result of the takeover", async () => {
    const bench = await Bench.attached();
    const hold = held();
    bench.server.takings.push(hold.taking);
    bench.server.last.orphan();
    await until("the takeover", hold.begun);
    bench.kernel.killSocket(0);
    bench.device.linkDead();
    await bench.state("reconnecting");
    hold.go();
    expect(await bench.outcome()).toMatchObject({
      level: "reconnect",
      cause: "worker 1001 was killed by SIGKILL; the kernel reported a dead link",
    });
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });
});

describe("a worker that is lost while links are replaced", () => {
  test("the fresh link's, before the kernel has its socket, or before it proves itself", async () => {
    for (const hook of ["beforeReconfigure", "afterReconfigure"] as const) {
      const bench = await Bench.attached();
      let orphaned: FakeLink | undefined;
      bench.kernel.hooks[hook] = () => {
        if (orphaned !== undefined) return;
        orphaned = bench.server.last;
        orphaned.orphan();
      };
      bench.server.last.kill();
      expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
      expect(bench.device.state).toBe("serving");
      expect(bench.device.describeLinks()).toMatchObject([{ state: "up" }]);
      expect(bench.kernel.links).toEqual([bench.server.last]);
      expect(bench.server.last.isServed).toBe(true);
      await bench.close();
    }
  });

  test("another link's: it is served again at the end of the failover", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    const [first, second] = bench.server.links;
    let done = false;
    bench.kernel.hooks.beforeReconfigure = () => {
      if (!done) second?.orphan();
      done = true;
    };
    first?.kill();
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
    expect(second?.takeovers).toBe(1);
    expect(bench.device.describeLinks().map(({ state }) => state)).toEqual(["up", "up"]);
    await bench.close();
  });
});

describe("a worker that is lost while the device is attached", () => {
  const moments: Record<string, (bench: Bench) => void> = {
    "before its link is known": (bench) =>
      bench.server.plan.push(async (open) => {
        const link = open();
        link.orphan();
        return link;
      }),
    "before CONNECT": (bench) => {
      bench.kernel.hooks.beforeConnect = () => bench.server.last.orphan();
    },
    "between CONNECT and its answer": (bench) => {
      bench.kernel.hooks.afterConnect = () => bench.server.last.orphan();
    },
    "after CONNECT": (bench) => {
      bench.device.once("state", () => bench.server.last.orphan());
    },
  };

  for (const [when, arrange] of Object.entries(moments)) {
    test(`${when}: taken over, and the attach succeeds`, async () => {
      const bench = new Bench();
      arrange(bench);
      expect(await bench.device.attach(undefined)).toBe(7);
      expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "takeover" });
      expect(bench.server.links).toHaveLength(1);
      expect(bench.server.last.takeovers).toBe(1);
      expect(bench.kernel.reconfigures).toEqual([]);
      await bench.close();
    });
  }
});
