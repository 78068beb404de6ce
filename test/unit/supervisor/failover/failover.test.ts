/** NetlinkDevice and restoreLinks: links that die at every moment, one outcome each, and nothing left behind. */
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, test } from "vitest";
import { Bench, noSocketsSince } from "../bench.ts";
import { refusal } from "../fake-kernel.ts";
import { holdersOf, openSockets, turns, until } from "../waiting.ts";

const baseline = openSockets();
afterAll(() => noSocketsSince(baseline));

/** Runs `act` in the first RECONFIGURE only. */
function once(act: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    act();
  };
}

/** Waits until what follows a LINK_DEAD is surely over: each wait is longer than the supervisor's own of that turn. */
async function afterRechecks(): Promise<void> {
  for (const wait of [5, 20, 60]) await sleep(wait);
}

describe("one failover", () => {
  test("a killed worker: a fresh link, proven by a request, one outcome with the exit's words", async () => {
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

  test("the old socket is shut down first, even if its worker hangs: a fresh one for a live slot is dropped", async () => {
    const bench = await Bench.attached();
    const dead: boolean[][] = [];
    bench.kernel.hooks.beforeReconfigure = () => void dead.push(bench.kernel.deadSlots);
    // The kernel takes the second link's socket, but its worker never answers, and never closes it either.
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

  test("between the death and RECONFIGURE the kernel's receivers get time to leave the old socket", async () => {
    const bench = await Bench.attached();
    let pauseOver = false;
    let overBefore: boolean | undefined;
    bench.kernel.hooks.beforeReconfigure = () => {
      overBefore = pauseOver;
    };
    bench.server.last.kill();
    bench.device.linkDead();
    // Timers run in the order they are due: 20 ms is the least that kernel-side receivers need.
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

  test("a busy device proves its link by itself: no read is forced", async () => {
    const bench = await Bench.attached();
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    const probes = bench.kernel.probeCount;
    bench.server.last.kill();
    await bench.outcome();
    expect(bench.kernel.probeCount).toBe(probes);
    await bench.close();
  });

  test("stranded reads: the outcome waits until they have gone out again", async () => {
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

  test("a second death while the first is still measured: each has its outcome", async () => {
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

  test("a detach while it is still measured: reported as recovered", async () => {
    const bench = await Bench.attached({ ioTimeoutMs: 60_000 });
    bench.kernel.inFlight = 3;
    bench.server.last.kill();
    await bench.state("serving");
    await bench.close();
    expect(bench.outcomes).toMatchObject([{ result: "recovered" }]);
  });

  test("a link cut inside a reply: the next ones copy", async () => {
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

describe("deaths during the recovery", () => {
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

  test("a socket that the kernel dropped with a success code: no request comes, it is replaced", async () => {
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

  test("two of three links die: both replaced by one RECONFIGURE, the third is left alone", async () => {
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

  test("another link dies while the first one's socket settles: it settles too, and one RECONFIGURE replaces both", async () => {
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

  test("links beyond the number of processors carry nothing: as many LINK_DEAD as sockets are proof", async () => {
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

describe("witnesses", () => {
  test("LINK_DEAD alone, before anything else is noticed: the worker's word explains it", async () => {
    const bench = await Bench.attached();
    bench.kernel.killSlot(0);
    bench.device.linkDead();
    await bench.state("reconnecting");
    bench.server.last.end({ kind: "end-of-file" });
    expect((await bench.outcome()).cause).toBe("worker 1001 ended the link: its socket was closed");
    await bench.close();
  });

  test("the exit explains what LINK_DEAD began; a late word of less weight does not", async () => {
    const bench = await Bench.attached();
    const first = bench.server.last;
    first.hangUp();
    bench.device.linkDead();
    await bench.state("reconnecting");
    first.kill();
    bench.device.linkDead();
    expect((await bench.outcome()).cause).toBe("worker 1001 was killed by SIGKILL");
    await bench.close();
  });

  test("lost messages: resynchronise finds the dead link", async () => {
    const bench = await Bench.attached();
    bench.server.last.hangUp();
    bench.device.resynchronise();
    expect((await bench.outcome()).cause).toBe("a link was found dead");
    await bench.close();
  });

  test("nobody says anything: the hang-up itself is noticed", async () => {
    const bench = await Bench.attached();
    bench.server.last.hangUp();
    expect((await bench.outcome()).cause).toBe("the link's socket was hung up");
    await bench.close();
  });

  test("late and double LINK_DEAD change nothing", async () => {
    const bench = await Bench.attached();
    bench.server.last.kill();
    bench.device.linkDead();
    bench.device.linkDead();
    await bench.outcome();
    bench.device.linkDead();
    bench.device.resynchronise();
    await afterRechecks();
    expect(bench.failovers).toBe(1);
    expect(bench.kernel.reconfigures).toHaveLength(1);
    await bench.close();
  });

  test("what a link of a former generation says does not touch the present one", async () => {
    const bench = await Bench.attached();
    const first = bench.server.last;
    bench.kernel.killSlot(0);
    bench.device.linkDead();
    await bench.outcome();
    first.end({ kind: "disconnect" });
    first.kill();
    await turns();
    expect(bench.device.state).toBe("serving");
    expect(bench.failovers).toBe(1);
    await bench.close();
  });
});

describe("the end of a device", () => {
  test("DISC: an ordinary end, no failover, released once", async () => {
    const bench = await Bench.attached();
    bench.kernel.sayGoodbye();
    await bench.state("detached");
    expect(bench.released).toEqual([
      "the kernel disconnected it: its last user closed it, or another program disconnected it",
    ]);
    await bench.close();
    expect(bench.outcomes).toEqual([]);
    expect(bench.kernel.disconnectCount).toBe(0);
  });

  test("the kernel's hang-up is noticed before the worker tells of DISC: still an ordinary end", async () => {
    const bench = await Bench.attached();
    bench.kernel.killSlot(0);
    // Long enough for the hang-up to be noticed; timers run in the order they are due, so the grace is not over.
    await sleep(30);
    bench.server.last.end({ kind: "disconnect" });
    await bench.state("detached");
    await bench.close();
    expect(bench.failovers).toBe(0);
    expect(bench.states).toEqual(["serving", "detached"]);
  });

  test("RECONFIGURE says EINVAL: the device has ended, the failover failed", async () => {
    const bench = await Bench.attached();
    bench.kernel.identifier = undefined;
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("failed");
    await bench.state("detached");
    expect(bench.released).toEqual(["nbd7 was disconnected by the kernel or by another program"]);
    expect(bench.server.last.isServed).toBe(false);
    await bench.close();
  });

  test("DISC on one of several links in the middle of a failover", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.hooks.beforeReconfigure = once(() => bench.kernel.sayGoodbye());
    bench.server.links[0]?.kill();
    expect((await bench.outcome()).result).toBe("failed");
    await bench.state("detached");
    await bench.close();
  });

  test("an index that is somebody else's by now is not disconnected", async () => {
    const bench = await Bench.attached();
    bench.kernel.identifier = "somebody else's";
    await bench.device.detach();
    expect(bench.kernel.disconnectCount).toBe(0);
    expect(bench.device.state).toBe("detached");
    await bench.close();
  });

  test("a refused DISCONNECT: told to the caller, and the device is as it was", async () => {
    const bench = await Bench.attached();
    bench.kernel.hooks.beforeDisconnect = () => {
      throw refusal(constants.errno.EPERM, "DISCONNECT", 7);
    };
    const both = await Promise.allSettled([bench.device.detach(), bench.device.detach()]);
    expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(bench.states).toEqual(["serving", "detaching", "serving"]);
    expect(bench.kernel.disconnectCount).toBe(1);
    bench.kernel.hooks = {};
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    await bench.close();
    await bench.device.detach();
  });
});

describe("long outages", () => {
  const noWorker = async (): Promise<never> => {
    throw new Error("no worker");
  };

  test("the quick attempts are spent: stalled is said once, and a later worker brings it back", async () => {
    const bench = await Bench.attached();
    bench.server.habit = noWorker;
    bench.server.last.kill();
    await bench.state("stalled");
    await until("slow attempts", () => bench.said.filter((line) => line.startsWith("attempt")).length > 5);
    expect(bench.said.filter((line) => line.startsWith("stalled"))).toEqual(["stalled: no worker"]);
    expect(bench.outcomes).toEqual([]);
    bench.server.habit = async (open) => open();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.states).toEqual(["serving", "reconnecting", "stalled", "serving"]);
    await bench.close();
  });

  test("the kernel's patience is over: failed is reported, and links that come later revive the device", async () => {
    const bench = await Bench.attached({ deadTimeoutSeconds: 0.2 });
    bench.server.habit = noWorker;
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("failed");
    expect(bench.device.state).toBe("failed");
    bench.server.habit = async (open) => open();
    await bench.state("serving");
    expect(bench.said.at(-1)).toBe("revived");
    expect(bench.device.counters).toMatchObject({ reconnects: 0, failedFailovers: 1 });
    bench.server.last.kill();
    expect((await bench.outcome(2)).result).toBe("recovered");
    await bench.close();
  });

  test("a worker that never answers does not hold up an attempt for ever", async () => {
    const bench = await Bench.attached();
    bench.server.plan.push(
      (_, signal) =>
        new Promise((_resolve, reject) =>
          signal.addEventListener("abort", () => reject(new Error("gave up waiting for a worker"))),
        ),
    );
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.said).toEqual(["attempt: gave up waiting for a worker"]);
    await bench.close();
  });

  test("a TypeError in an attempt is retried like any other failure", async () => {
    const bench = await Bench.attached();
    bench.kernel.hooks.beforeReconfigure = once(() => {
      throw new TypeError("a bug of ours");
    });
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    await bench.close();
  });

  test("RECONFIGURE fails again and again: tried again, and descriptors do not pile up", async () => {
    const bench = await Bench.attached();
    bench.kernel.hooks.beforeReconfigure = () => {
      throw refusal(constants.errno.ENOMEM, "RECONFIGURE", 7);
    };
    bench.server.last.kill();
    await until("many attempts", () => bench.kernel.reconfigures.length > 12);
    const ends = bench.server.links.slice(1, 9).map(({ socket }) => socket);
    const open = (): boolean => [...openSockets().values()].some((target) => ends.includes(target));
    await until(
      "sockets that the kernel never had are closed, though no RECONFIGURE has worked",
      () => !open(),
    );
    bench.kernel.hooks = {};
    expect((await bench.outcome()).result).toBe("recovered");
    await bench.close();
  });

  test("a record that cannot be written is told, and does not keep reads waiting", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.diskFaults.push(new Error("ENOSPC: no space left on device"));
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    for (const link of bench.server.links) link.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.said).toEqual(["record: ENOSPC: no space left on device"]);
    expect(bench.kernel.links).toEqual(bench.server.links.slice(2));
    await bench.close();
  });

  test("the second of two links gets no worker: the first fresh one is not taken for served", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    bench.server.plan.push(async (open) => open(), noWorker);
    for (const link of bench.server.links) link.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.kernel.reconfigures.map(({ sockets }) => sockets?.length)).toEqual([2]);
    expect(bench.kernel.links).toEqual(bench.server.links.slice(3));
    await bench.close();
  });
});

describe("detached in the middle of a failover", () => {
  const steps: Record<string, (bench: Bench, detach: () => void) => void> = {
    "while the old sockets settle": (_bench, detach) => setTimeout(detach, 5),
    "while a worker is waited for": (bench, detach) => {
      bench.server.plan.push((_, signal) => {
        detach();
        return new Promise((_resolve, reject) =>
          signal.addEventListener("abort", () => reject(new Error("aborted"))),
        );
      });
    },
    "while a worker answers that does not look at the signal": (bench, detach) => {
      bench.server.plan.push(async (open) => {
        detach();
        await turns(20);
        return open();
      });
    },
    "while RECONFIGURE is under way": (bench, detach) => {
      bench.kernel.hooks.beforeReconfigure = async () => {
        detach();
        await turns();
      };
    },
    "between RECONFIGURE and its answer": (bench, detach) => {
      bench.kernel.hooks.afterReconfigure = detach;
    },
    "while the proof is awaited": (bench, detach) => {
      bench.kernel.readsArrive = false;
      bench.kernel.hooks.afterReconfigure = () => void setTimeout(detach, 5);
    },
    "between two attempts": (bench, detach) => {
      bench.server.habit = async () => {
        throw new Error("no worker");
      };
      bench.device.once("attemptFailed", detach);
    },
    "when it is stalled": (bench, detach) => {
      bench.server.habit = async () => {
        throw new Error("no worker");
      };
      bench.device.once("stalled", detach);
    },
  };

  for (const [when, arrange] of Object.entries(steps)) {
    test(when, async () => {
      const bench = await Bench.attached();
      let detached: Promise<void> | undefined;
      arrange(bench, () => {
        detached ??= bench.device.detach();
      });
      bench.server.last.kill();
      await until("the detach", () => detached !== undefined);
      await detached;
      expect(bench.device.state).toBe("detached");
      expect(bench.outcomes).toMatchObject([{ result: "failed" }]);
      await until("links let go of", () => bench.server.links.every(({ isServed }) => !isServed));
      expect(bench.said.filter((line) => line.includes("abort"))).toEqual([]);
      await bench.close();
    });
  }

  test("when it is failed", async () => {
    const bench = await Bench.attached({ deadTimeoutSeconds: 0.05 });
    bench.server.habit = async () => {
      throw new Error("no worker");
    };
    bench.server.last.kill();
    await bench.state("failed");
    await bench.close();
    expect(bench.outcomes).toMatchObject([{ result: "failed" }]);
  });

  test("and DISCONNECT is refused: a link that was never proven is replaced again", async () => {
    const bench = await Bench.attached();
    bench.kernel.dropsSockets = true;
    bench.kernel.hooks.beforeDisconnect = once(() => {
      throw refusal(constants.errno.EPERM, "DISCONNECT", 7);
    });
    let detached: Promise<unknown> | undefined;
    bench.kernel.hooks.afterReconfigure = once(() => {
      detached = bench.device.detach().catch(() => "refused");
    });
    bench.server.last.kill();
    await until("the detach", () => detached !== undefined);
    expect(await detached).toBe("refused");
    bench.kernel.dropsSockets = false;
    expect(await bench.outcome(2)).toMatchObject({ result: "recovered" });
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });
});

describe("autoclear", () => {
  test("set by a RECONFIGURE without sockets, after the record, and carried by every later one", async () => {
    const bench = await Bench.attached();
    await bench.device.enableAutoclear();
    expect(bench.kernel.reconfigures).toEqual([
      { index: 7, backendIdentifier: "one of ours", deadConnectionTimeoutSeconds: 86_400, clientFlags: 2 },
    ]);
    expect(bench.device.settings.autoclear).toBe(true);
    for (const round of [1, 2]) {
      bench.server.last.kill();
      await bench.outcome(round);
      await bench.state("serving");
    }
    expect(bench.kernel.reconfigures.map(({ clientFlags }) => clientFlags)).toEqual([2, 2, 2]);
    await bench.close();
  });

  test("refused: not set behind the caller's back by the next failover", async () => {
    const bench = await Bench.attached();
    bench.kernel.hooks.beforeReconfigure = once(() => {
      throw refusal(constants.errno.EPERM, "RECONFIGURE", 7);
    });
    await expect(bench.device.enableAutoclear()).rejects.toMatchObject({ errno: constants.errno.EPERM });
    bench.server.last.kill();
    await bench.outcome();
    expect(bench.kernel.reconfigures.at(-1)?.clientFlags).toBe(0);
    await bench.close();
  });

  test("of a device that is no more", async () => {
    const bench = await Bench.attached();
    await bench.close();
    await expect(bench.device.enableAutoclear()).rejects.toMatchObject({ code: "ERR_NOT_ATTACHED" });
  });
});

test("the old kernel end is kept until RECONFIGURE has been answered, and closed some time after", async () => {
  const bench = await Bench.attached();
  const first = bench.server.last;
  const holders: number[] = [];
  bench.kernel.hooks.beforeReconfigure = () => void holders.push(holdersOf(first.kernelFd));
  bench.kernel.hooks.afterReconfigure = () => void holders.push(holdersOf(first.kernelFd));
  const socket = openSockets().get(first.kernelFd);
  first.kill();
  await bench.outcome();
  // Ours and the kernel's; then ours alone; then nobody's.
  expect(holders).toEqual([2, 1]);
  expect([...openSockets().values()]).toContain(socket);
  await until("the old end closed", () => ![...openSockets().values()].includes(socket ?? ""));
  await bench.close();
});
