/** Witnesses of a death in any order, and devices that end in the middle of a failover. */
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { leavesNoSockets } from "../../../helpers/sockets/descriptors.ts";
import { turns } from "../../../helpers/until.ts";
import { Bench } from "../bench.ts";
import { refusal } from "../fake-kernel.ts";
import { afterRechecks, once } from "./steps.ts";

leavesNoSockets();

describe("witnesses", () => {
  test("LINK_DEAD comes first, and the worker's message explains it", async () => {
    const bench = await Bench.attached();
    bench.kernel.killSocket(0);
    bench.device.linkDead();
    await bench.state("reconnecting");
    bench.server.last.end({ kind: "end-of-file" });
    expect((await bench.outcome()).cause).toBe("worker 1001 ended the link: its socket was closed");
    await bench.close();
  });

  test("the exit explains a failover that LINK_DEAD began; a later, worse witness does not", async () => {
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

  test("a hang-up without any message is noticed", async () => {
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

  test("messages of a link of a former generation do not touch the present one", async () => {
    const bench = await Bench.attached();
    const first = bench.server.last;
    bench.kernel.killSocket(0);
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
  test("a disconnect by the kernel is an ordinary end: no failover, released once", async () => {
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

  test("the hang-up is noticed before the worker reports the disconnect: still an ordinary end", async () => {
    const bench = await Bench.attached();
    bench.kernel.killSocket(0);
    // Long enough to notice the hang-up; timers run in the order they are due, so the grace is not over.
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

  test("a disconnect on one of several links in the middle of a failover", async () => {
    const bench = await Bench.attached({ connections: 2 });
    bench.kernel.hooks.beforeReconfigure = once(() => bench.kernel.sayGoodbye());
    bench.server.links[0]?.kill();
    expect((await bench.outcome()).result).toBe("failed");
    await bench.state("detached");
    await bench.close();
  });

  test("an index that belongs to another device by now is not disconnected", async () => {
    const bench = await Bench.attached();
    bench.kernel.identifier = "another device";
    await bench.device.detach();
    expect(bench.kernel.disconnectCount).toBe(0);
    expect(bench.device.state).toBe("detached");
    await bench.close();
  });

  test("a refused DISCONNECT is reported to the caller, and the device is unchanged", async () => {
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
