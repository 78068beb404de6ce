/** Failovers that take long, that a detach interrupts, and that carry autoclear. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { holdersOf, leavesNoSockets, openSockets } from "../../../helpers/sockets/descriptors.ts";
import { turns, until } from "../../../helpers/until.ts";
import { Bench } from "../bench.ts";
import { refusal } from "../fake-kernel.ts";
import { once } from "./steps.ts";

leavesNoSockets();

describe("long outages", () => {
  const noWorker = async (): Promise<never> => {
    throw new Error("no worker");
  };

  test("the quick attempts are spent: stalled is reported once, and a later worker restores the device", async () => {
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

  test("the dead timeout passes: the failover has failed, and links that come later revive the device", async () => {
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

  test("a worker that never answers does not block an attempt forever", async () => {
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
      throw new TypeError("a bug");
    });
    bench.server.last.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    await bench.close();
  });

  test("RECONFIGURE fails again and again: it is repeated, and descriptors do not accumulate", async () => {
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

  test("a record that cannot be written is reported, and does not keep reads waiting", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.diskFaults.push(new Error("ENOSPC: no space left on device"));
    bench.kernel.hooks.afterReconfigure = () => bench.kernel.trafficEverywhere();
    for (const link of bench.server.links) link.kill();
    expect((await bench.outcome()).result).toBe("recovered");
    expect(bench.said).toEqual(["record: ENOSPC: no space left on device"]);
    expect(bench.kernel.links).toEqual(bench.server.links.slice(2));
    await bench.close();
  });

  test("the second of two links gets no worker: the first fresh one does not count as served", async () => {
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
    "while a worker answers that ignores the signal": (bench, detach) => {
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
      await until("links released", () => bench.server.links.every(({ isServed }) => !isServed));
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

  test("and DISCONNECT is refused: a link that was not proven is replaced again", async () => {
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

  test("if refused, it is not set by the next failover", async () => {
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

  test("of a device that is gone", async () => {
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
  // This process and the kernel; then this process alone.
  expect(holders).toEqual([2, 1]);
  expect([...openSockets().values()]).toContain(socket);
  await until("the old end closed", () => ![...openSockets().values()].includes(socket ?? ""));
  await bench.close();
});
