/** NetlinkDevice when workers go and sockets stay: takeovers, what becomes of those that fail, and one outcome each. */
import { afterAll, describe, expect, test } from "vitest";
import type { FoundLink } from "../../../../src/supervisor/ports.ts";
import { Bench, noSocketsSince } from "../bench.ts";
import { type FakeLink, type Taking, takenOver } from "../fake-server.ts";
import { openSockets, turns, until } from "../waiting.ts";

const baseline = openSockets();
afterAll(() => noSocketsSince(baseline));

const WHY = "the account does not add up";
const unsafe: Taking = async () => ({ safe: false, why: WHY });

/** A takeover that waits until the test lets it go on with another one, or its signal ends it. */
function held(): {
  taking: Taking;
  begun: () => boolean;
  go: (then?: Taking) => void;
  aborted: () => boolean;
} {
  let release: ((then: Taking) => void) | undefined;
  let stopped = false;
  const taking: Taking = async (link, signal, waiting) => {
    const then = await new Promise<Taking>((resolve, reject) => {
      release = resolve;
      signal.addEventListener("abort", () => {
        stopped = true;
        reject(signal.reason);
      });
    });
    return then(link, signal, waiting);
  };
  return {
    taking,
    begun: () => release !== undefined,
    go: (then = takenOver()) => release?.(then),
    aborted: () => stopped,
  };
}

const waitingForAborted: Taking = (_link, signal) =>
  new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(new Error("no worker in time")));
  });

describe("a worker that is gone", () => {
  test("another takes over the same socket; the kernel is told nothing; one outcome says so", async () => {
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

  test("reads stood still before anybody noticed: that time is in the stall", async () => {
    const bench = await Bench.attached();
    bench.server.last.orphan("worker 1001 served nothing for 60 s; it was killed", 60_000);
    const outcome = await bench.outcome();
    expect(outcome.stallMs).toBeGreaterThanOrEqual(60_000);
    expect(outcome.cause).toBe("worker 1001 served nothing for 60 s; it was killed");
    bench.server.last.orphan();
    expect((await bench.outcome(2)).stallMs).toBeLessThan(60_000);
    await bench.close();
  });

  test("one of several links: the others serve on", async () => {
    const bench = await Bench.attached({ connections: 3 });
    bench.server.links[1]?.orphan();
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "takeover" });
    expect(bench.server.links.map(({ takeovers }) => takeovers)).toEqual([0, 1, 0]);
    expect(bench.device.describeLinks().map(({ workerPid }) => workerPid)).toEqual([1001, 2002, 1003]);
    await bench.close();
  });

  test("all of several links: one failover, whose outcome adds up their reads", async () => {
    const bench = await Bench.attached({ connections: 3 });
    bench.server.takings.push(takenOver(2), takenOver(3), takenOver(4));
    for (const link of bench.server.links) link.orphan();
    expect(await bench.outcome()).toMatchObject({ level: "takeover", strandedReads: 9 });
    expect(bench.failovers).toBe(1);
    expect(bench.device.counters.takeovers).toBe(1);
    await bench.close();
  });

  test("a link of a former generation loses its worker: that is nobody's failover", async () => {
    const bench = await Bench.attached();
    const first = bench.server.last;
    bench.kernel.killSlot(0);
    bench.device.linkDead();
    await bench.outcome();
    first.orphan();
    await turns();
    expect(bench.device.state).toBe("serving");
    expect(bench.failovers).toBe(1);
    await bench.close();
  });

  test("handed over by plan: counted and told, no failover", async () => {
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

  test("dies in the turn in which the outcome is told: noticed", async () => {
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
  test("the link is given up for a fresh one, and the outcome has both reasons", async () => {
    const bench = await Bench.attached();
    bench.server.takings.push(unsafe);
    const first = bench.server.last;
    const dead: boolean[][] = [];
    bench.kernel.hooks.beforeReconfigure = () => void dead.push(bench.kernel.deadSlots);
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
    await until("its socket is let go of", () => !first.isUp);
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

  test("the socket dies while it is taken over: reconnect, whatever the takeover says then", async () => {
    const bench = await Bench.attached();
    const hold = held();
    bench.server.takings.push(hold.taking);
    bench.server.last.orphan();
    await until("the takeover", hold.begun);
    bench.kernel.killSlot(0);
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

  test("another link's: served again by the time it is over", async () => {
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

describe("the end of a device during a takeover", () => {
  test("detach: the takeover is stopped, its failover failed, everything let go of", async () => {
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

  test("a takeover that does not look at its signal ends after the device: nothing comes of it", async () => {
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

  test("the kernel disconnects it, and nobody is there to read the goodbye", async () => {
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

  test("the successor reads the goodbye: an ordinary end", async () => {
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

describe("takeovers that do not come about", () => {
  test("put off because its workers die: stalled, with the reason, until it is served again", async () => {
    const bench = await Bench.attached();
    const hold = held();
    bench.server.takings.push(async (link, signal, waiting) => {
      waiting("4 workers died of it");
      waiting("5 workers died of it");
      return hold.taking(link, signal, waiting);
    });
    bench.server.last.orphan();
    await bench.state("stalled");
    expect(bench.device.stalledReason).toBe("5 workers died of it");
    expect(bench.said).toEqual(["stalled: 4 workers died of it", "stalled: 5 workers died of it"]);
    expect(bench.outcomes).toEqual([]);
    await until("the takeover", hold.begun);
    hold.go(takenOver(3));
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "takeover", strandedReads: 3 });
    expect(bench.states).toEqual(["serving", "taking-over", "stalled", "serving"]);
    expect(bench.device.stalledReason).toBeNull();
    await bench.close();
  });

  test("no worker for so long that the quick attempts are spent: stalled, and tried on", async () => {
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
    bench.kernel.killSlot(0);
    bench.device.resynchronise();
    await until("the death is noticed", () => bench.device.describeLinks()[0]?.state === "down");
    hold.go(unsafe);
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });

  test("for longer than the kernel would hold reads: they fail like those of a dead link, and a later worker revives it", async () => {
    const bench = await Bench.attached({ deadTimeoutSeconds: 0.1 });
    const hold = held();
    bench.server.takings.push(hold.taking);
    bench.server.last.orphan();
    await until("the takeover", hold.begun);
    await bench.state("failed");
    expect(bench.outcomes).toMatchObject([{ result: "failed", level: "takeover" }]);
    expect(bench.kernel.deadSlots).toEqual([true]);
    hold.go(unsafe);
    await bench.state("serving");
    expect(bench.said.at(-1)).toBe("revived");
    expect(bench.kernel.links).toEqual([bench.server.last]);
    expect(bench.device.counters).toMatchObject({ takeovers: 0, reconnects: 0, failedFailovers: 1 });
    await bench.close();
  });
});

describe("the kernel's count of reads, for settling", () => {
  test("is asked of the device, and nothing is in flight on one that is none yet", async () => {
    const bench = new Bench();
    const counts: Array<number | undefined> = [];
    bench.kernel.hooks.beforeConnect = () => void counts.push(bench.server.last.request.inFlight());
    await bench.device.attach(undefined);
    bench.kernel.inFlight = 5;
    counts.push(bench.server.last.request.inFlight());
    expect(counts).toEqual([0, 5]);
    expect(bench.server.last.request).toMatchObject({ counted: true, slot: 0, device: "one of ours" });
    bench.kernel.iostats = false;
    expect(bench.server.last.request.inFlight()).toBeUndefined();
    await bench.close();
  });

  test("of several links is nobody's", async () => {
    const bench = await Bench.attached({ connections: 2 });
    expect(bench.server.links.map(({ request }) => request.counted)).toEqual([false, false]);
    await bench.close();
  });

  test("cannot be trusted after a reconnect: reads of the dead link are in it until they go out again", async () => {
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
  test("a link that the kernel may never have been given is replaced, and confirmed when it has proven itself", async () => {
    const bench = new Bench();
    bench.kernel.identifier = "one of ours";
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.kernel.orphanSlot();
    const open = bench.server.open.bind(bench.server);
    await bench.device.adopt(7, [{ slot: 0, copyOnly: false, open }], "a dead manager left it behind");
    expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
    expect(bench.server.links.map(({ isUp, confirmations }) => ({ isUp, confirmations }))).toEqual([
      { isUp: false, confirmations: 0 },
      { isUp: true, confirmations: 1 },
    ]);
    await bench.close();
  });

  test("the request timer is set if the manager before did not come to it, in a calm moment", async () => {
    const bench = new Bench();
    bench.kernel.identifier = "one of ours";
    bench.kernel.inFlight = 1;
    await bench.device.adopt(7, [{ slot: 0, copyOnly: false, open: usedLinkOf(bench) }], "it died");
    expect(bench.kernel.ioTimeouts).toEqual([]);
    bench.kernel.inFlight = 0;
    await until("the timer", () => bench.kernel.ioTimeouts.length > 0);
    expect(bench.kernel.ioTimeouts).toEqual([bench.device.settings.ioTimeoutMs]);
    await bench.close();
  });

  test("goes on without a failover, with the history that was given; takes over what is lost then", async () => {
    const bench = new Bench({ connections: 2 });
    bench.kernel.identifier = "one of ours";
    const found = [0, 1].map((slot) => ({
      slot,
      copyOnly: slot === 1,
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

  test("a slot that nobody serves is replaced, the others stay", async () => {
    const bench = new Bench({ connections: 2 });
    bench.kernel.identifier = "one of ours";
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.kernel.orphanSlot();
    const served = { slot: 1, copyOnly: false, open: usedLinkOf(bench) };
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
  expect(bench.kernel.deadSlots).toEqual([true]);
  bench.device.linkDead();
  expect(await bench.outcome()).toMatchObject({ result: "recovered", level: "reconnect" });
  await bench.close();
});
