/** Links that die at any moment of a failover: one outcome each, and no descriptor left. */
import { describe, expect, test } from "vitest";
import { leavesNoSockets } from "../../../helpers/sockets/descriptors.ts";
import { turns, until } from "../../../helpers/until.ts";
import { Bench } from "../bench.ts";
import { afterRechecks, once } from "./steps.ts";

leavesNoSockets();

describe("one failover", () => {
  test("a killed worker: a fresh link, proven by a request, and one outcome with the exit as its cause", async () => {
    const bench = await Bench.attached();
    const [first] = bench.server.links;
    first?.kill();
    expect(bench.device.state).toBe("reconnecting");
    const outcome = await bench.outcome();
    expect(outcome).toMatchObject({
      result: "recovered",
      level: "reconnect",
      cause: "worker 1001 was killed by SIGKILL",
      strandedReads: 0,
    });
    expect(Date.parse(outcome.at)).not.toBeNaN();
    expect(bench.device.lastFailover).toBe(outcome);
    expect(bench.device.counters).toMatchObject({ reconnects: 1, failedFailovers: 0, takeovers: 0 });
    expect(bench.device.describeLinks()).toMatchObject([{ state: "up", workerPid: 1002, generation: 2 }]);
    expect(bench.kernel.reconfigures).toEqual([
      {
        index: 7,
        backendIdentifier: "one of ours",
        sockets: [bench.server.last.kernelFd],
        deadConnectionTimeoutSeconds: 86_400,
        clientFlags: 0,
      },
    ]);
    expect(bench.states).toEqual(["serving", "reconnecting", "serving"]);
    expect(bench.said).toEqual([]);
    await bench.close();
  });

  test("the old socket is shut down first, even if its worker hangs: the kernel replaces dead ones only", async () => {
    const bench = await Bench.attached();
    const dead: boolean[][] = [];
    bench.kernel.hooks.beforeReconfigure = () => void dead.push(bench.kernel.deadSockets);
    // The kernel takes the second link's socket, but its worker neither answers nor closes it.
    bench.server.plan.push(async (open) => {
      const link = open();
      link.hangs = true;
      return link;
    });
    bench.kernel.readsArrive = false;
    bench.device.once("attemptFailed", () => {
      bench.kernel.readsArrive = true;
    });
    bench.server.last.kill();
    await bench.outcome();
    expect(dead).toEqual([[true], [true]]);
    expect(bench.server.links[1]?.isServed).toBe(true);
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });

  test("the kernel's receivers get time to leave the old socket between the death and RECONFIGURE", async () => {
    const bench = await Bench.attached();
    let pauseOver = false;
    let overBefore: boolean | undefined;
    bench.kernel.hooks.beforeReconfigure = () => {
      overBefore = pauseOver;
    };
    bench.server.last.kill();
    bench.device.linkDead();
    // Timers run in the order they are due: the receivers get at least 20 ms.
    setTimeout(() => {
      pauseOver = true;
    }, 20);
    await bench.outcome();
    expect(overBefore).toBe(true);
    await bench.close();
  });

  test("the counters of a dead link are kept", async () => {
    const bench = await Bench.attached();
    bench.server.last.counters = { requests: 10, readBytes: 4096, readErrors: 1 };
    bench.server.last.kill();
    await bench.outcome();
    expect(bench.device.counters).toMatchObject({ requests: 11, readBytes: 4096, readErrors: 1 });
    await bench.close();
  });

  test("no read is forced on a busy device, which proves its link by itself", async () => {
    const bench = await Bench.attached();
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    const probes = bench.kernel.probeCount;
    bench.server.last.kill();
    await bench.outcome();
    expect(bench.kernel.probeCount).toBe(probes);
    await bench.close();
  });

  test("the outcome waits until stranded reads have been sent again", async () => {
    const bench = await Bench.attached({ ioTimeoutMs: 60_000 });
    bench.kernel.inFlight = 3;
    bench.server.last.kill();
    await bench.state("serving");
    await turns(20);
    expect(bench.outcomes).toEqual([]);
    bench.kernel.inFlight = 0;
    expect(await bench.outcome()).toMatchObject({ result: "recovered", strandedReads: 3 });
    await bench.close();
  });

  test("a second death while the first is measured: each has its outcome", async () => {
    const bench = await Bench.attached({ ioTimeoutMs: 60_000 });
    bench.kernel.inFlight = 3;
    bench.server.last.kill();
    await bench.state("serving");
    bench.server.last.kill();
    expect((await bench.outcome()).cause).toBe("worker 1001 was killed by SIGKILL");
    await bench.state("serving");
    bench.kernel.inFlight = 0;
    expect((await bench.outcome(2)).cause).toBe("worker 1002 was killed by SIGKILL");
    await bench.close();
  });

  test("a detach while a failover is measured: it is reported as recovered", async () => {
    const bench = await Bench.attached({ ioTimeoutMs: 60_000 });
    bench.kernel.inFlight = 3;
    bench.server.last.kill();
    await bench.state("serving");
    await bench.close();
    expect(bench.outcomes).toMatchObject([{ result: "recovered" }]);
  });

  test("after a link was cut inside a reply, the next links copy", async () => {
    const bench = await Bench.attached();
    bench.server.last.end({ kind: "source-error", message: "EIO" });
    expect((await bench.outcome()).cause).toContain("the image failed inside a reply (EIO)");
    expect(bench.server.links.map(({ request }) => request.copyOnly)).toEqual([false, true]);
    await bench.close();
  });

  test("read errors are passed on", async () => {
    const bench = await Bench.attached();
    bench.server.last.readErrors("the file ends there", 3);
    expect(bench.said).toEqual(["3 × the file ends there"]);
    await bench.close();
  });
});

describe("deaths during the reconnect", () => {
  test("killed between RECONFIGURE and its answer: tried again", async () => {
    const bench = await Bench.attached();
    bench.kernel.hooks.afterReconfigure = once(() => bench.server.last.kill());
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.reconfigures).toHaveLength(2);
    expect(bench.device.describeLinks()).toMatchObject([{ state: "up", generation: 3, workerPid: 1003 }]);
    await bench.close();
  });

  test("killed after the answer and before the first request: tried again", async () => {
    const bench = await Bench.attached();
    bench.kernel.readsArrive = false;
    bench.kernel.hooks.afterReconfigure = once(() => {
      setTimeout(() => {
        bench.kernel.readsArrive = true;
        bench.server.last.kill();
      }, 1);
    });
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.reconfigures).toHaveLength(2);
    await bench.close();
  });

  test("killed before it was given to the kernel: tried again", async () => {
    const bench = await Bench.attached();
    bench.server.plan.push(async (open) => {
      const link = open();
      link.kill();
      return link;
    });
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });

  test("a socket that the kernel dropped with a success code is replaced, because no request comes", async () => {
    const bench = await Bench.attached();
    bench.kernel.dropsSockets = true;
    bench.kernel.hooks.beforeReconfigure = () => {
      bench.kernel.dropsSockets = bench.kernel.reconfigures.length < 2;
    };
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.reconfigures).toHaveLength(2);
    expect(bench.said).toEqual([
      "attempt: cannot prove that nbd7 uses its fresh socket: no request came over it",
    ]);
    expect(bench.server.links[1]?.isServed).toBe(false);
    await bench.close();
  });

  test("two of three links die: both are replaced by one RECONFIGURE, and the third is not touched", async () => {
    const bench = await Bench.attached({ connections: 3 });
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    const [first, second, third] = bench.server.links;
    first?.kill();
    third?.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.reconfigures.map(({ sockets }) => sockets?.length)).toEqual([2]);
    expect(bench.kernel.links).toEqual([bench.server.links[3], second, bench.server.links[4]]);
    expect(bench.device.describeLinks().map(({ generation }) => generation)).toEqual([2, 1, 2]);
    await bench.close();
  });

  test("a second link that dies while the first one settles is settled, too, and replaced with it", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.server.links[0]?.kill();
    setTimeout(() => bench.server.links[1]?.kill(), 10);
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.reconfigures.map(({ sockets }) => sockets?.length)).toEqual([2]);
    await bench.close();
  });

  test("another link dies while the first is replaced: one failover mends both", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.hooks.beforeReconfigure = once(() => bench.server.links[1]?.kill());
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.server.links[0]?.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    await bench.state("serving");
    expect(bench.kernel.links.map((link) => link?.isServed)).toEqual([true, true]);
    await bench.close();
  });

  test("links beyond the number of processors carry no reads: as many LINK_DEAD as sockets are proof", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.readsArrive = false;
    for (const link of bench.server.links) {
      link.kill();
      bench.device.linkDead();
    }
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.reconfigures).toHaveLength(1);
    await bench.close();
  });

  test("LINK_DEAD of a former generation is no such proof", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.device.linkDead();
    bench.device.linkDead();
    await afterRechecks();
    expect(bench.device.state).toBe("serving");
    bench.kernel.readsArrive = false;
    bench.kernel.dropsSockets = true;
    for (const link of bench.server.links) link.kill();
    await until("an attempt without proof", () => bench.said.length > 0);
    expect(bench.said[0]).toContain("cannot prove");
    bench.kernel.dropsSockets = false;
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    expect((await bench.outcome()).result).toBe("recovered");
    await bench.close();
  });
});
