/** NetlinkDevice: attaching, and undoing it after a failure at any step. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { ErofsNbdError } from "../../../src/errors.ts";
import { leavesNoSockets } from "../../helpers/sockets/descriptors.ts";
import { Bench } from "./bench.ts";
import { refusal } from "./fake-kernel.ts";

leavesNoSockets();

const noSpace = (): Error => Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });

describe("attach", () => {
  test("writes the record before each act, sends every attribute, sets the timer, reads a block", async () => {
    const bench = new Bench({ connections: 2, timeoutSeconds: 3 });
    expect(await bench.device.attach(4)).toBe(7);
    expect(bench.records).toEqual([
      "attaching, 0 links, nbdundefined",
      "attaching, 2 links, nbdundefined",
      "serving, 2 links, nbd7",
    ]);
    const [first, second] = bench.server.links;
    expect(bench.kernel.connects).toEqual([
      {
        index: 4,
        sizeBytes: 8192,
        blockSizeBytes: 4096,
        timeoutSeconds: 3,
        deadConnectionTimeoutSeconds: 86_400,
        serverFlags: expect.any(Number),
        clientFlags: 0,
        sockets: [first?.kernelFd, second?.kernelFd],
        backendIdentifier: "one of ours",
      },
    ]);
    expect(bench.kernel.ioTimeouts).toEqual([50]);
    expect(bench.kernel.probeCount).toBe(1);
    expect(bench.states).toEqual(["serving"]);
    expect(bench.device.describeLinks()).toEqual([
      { index: 0, state: "up", workerPid: first?.workerPid, generation: 1 },
      { index: 1, state: "up", workerPid: second?.workerPid, generation: 1 },
    ]);
    expect(bench.server.links.map(({ request }) => request.spread)).toEqual([false, true]);
    await bench.close();
    expect(bench.kernel.disconnectCount).toBe(1);
    expect(bench.released).toEqual(["detached"]);
    expect(bench.outcomes).toEqual([]);
  });

  test("a record that cannot be written: nothing is begun", async () => {
    const bench = new Bench();
    bench.diskFaults.push(noSpace());
    await expect(bench.device.attach(undefined)).rejects.toThrow("ENOSPC");
    expect(bench.server.links).toEqual([]);
    expect(bench.kernel.connects).toEqual([]);
    expect(bench.states).toEqual(["detached"]);
    await bench.close();
  });

  test("a second link that no worker serves: the first is closed, and the kernel gets no command", async () => {
    const bench = new Bench({ connections: 2 });
    bench.server.plan.push(
      async (open) => open(),
      async () => {
        throw new ErofsNbdError("ERR_WORKER", "cannot get a worker that serves: none has started yet");
      },
    );
    await expect(bench.device.attach(undefined)).rejects.toMatchObject({ code: "ERR_WORKER" });
    expect(bench.server.last.isServed).toBe(false);
    expect(bench.kernel.connects).toEqual([]);
    await bench.close();
  });

  test("CONNECT refused: links are closed, nothing is disconnected", async () => {
    const bench = new Bench();
    bench.kernel.hooks.beforeConnect = () => {
      throw refusal(constants.errno.EBUSY, "CONNECT", 7);
    };
    await expect(bench.device.attach(undefined)).rejects.toMatchObject({ errno: constants.errno.EBUSY });
    expect(bench.server.last.isServed).toBe(false);
    expect(bench.kernel.disconnectCount).toBe(0);
    expect(bench.states).toEqual(["detached"]);
    await bench.close();
  });

  test("CONNECT that worked but whose answer was lost: found by its identifier and disconnected", async () => {
    const bench = new Bench();
    bench.kernel.hooks.afterConnect = () => {
      throw new Error("the answer was lost");
    };
    await expect(bench.device.attach(undefined)).rejects.toThrow("the answer was lost");
    expect(bench.kernel.disconnectCount).toBe(1);
    expect(bench.kernel.backendOf(7)).toBeUndefined();
    expect(bench.device.state).toBe("detached");
    await bench.close();
  });

  test("a record that cannot be written after CONNECT: disconnected", async () => {
    const bench = new Bench();
    bench.diskFaults.push(undefined, undefined, noSpace());
    await expect(bench.device.attach(undefined)).rejects.toThrow("ENOSPC");
    expect(bench.kernel.disconnectCount).toBe(1);
    expect(bench.states).toEqual(["serving", "detaching", "detached"]);
    await bench.close();
  });

  test("a block that cannot be read in time: disconnected, and the reason is reported", async () => {
    const bench = new Bench({}, 100);
    bench.kernel.readsArrive = false;
    await expect(bench.device.attach(undefined)).rejects.toMatchObject({
      code: "ERR_NOT_READABLE",
      message: "cannot read nbd7 after attaching it: the read did not come back in time",
    });
    expect(bench.kernel.disconnectCount).toBe(1);
    await bench.close();
  });

  test("a node that /dev lacks is named, with what to do", async () => {
    const bench = new Bench({}, 100);
    bench.kernel.readsArrive = false;
    bench.kernel.missing = { path: "/dev/nbd7", number: "43 7" };
    await expect(bench.device.attach(undefined)).rejects.toMatchObject({
      code: "ERR_NOT_READABLE",
      message: "cannot read nbd7 after attaching it: there is no /dev/nbd7",
      hint: expect.stringContaining("mknod /dev/nbd7 b 43 7; the device was detached again"),
    });
    expect(bench.kernel.disconnectCount).toBe(1);
    await bench.close();
  });

  test("a worker killed before CONNECT: the device is attached by a failover", async () => {
    const bench = new Bench();
    bench.kernel.hooks.beforeConnect = () => bench.server.last.kill();
    await bench.device.attach(undefined);
    expect(await bench.outcome()).toMatchObject({
      result: "recovered",
      cause: "worker 1001 was killed by SIGKILL",
    });
    expect(bench.states).toEqual(["serving", "reconnecting", "serving"]);
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });

  test("a worker killed between CONNECT and its answer: the same", async () => {
    const bench = new Bench();
    bench.kernel.hooks.afterConnect = () => bench.server.last.kill();
    await bench.device.attach(undefined);
    expect(await bench.outcome()).toMatchObject({
      result: "recovered",
      cause: "worker 1001 was killed by SIGKILL",
    });
    expect(bench.server.links).toHaveLength(2);
    await bench.close();
  });

  test("a device that the kernel ends before the answer to CONNECT: the attach fails, nothing is left", async () => {
    const bench = new Bench();
    bench.kernel.hooks.afterConnect = () => bench.kernel.sayGoodbye();
    await expect(bench.device.attach(undefined)).rejects.toMatchObject({ code: "ERR_NOT_READABLE" });
    await bench.state("detached");
    expect(bench.kernel.disconnectCount).toBe(0);
    await bench.close();
  });

  test("a device that vanishes without a disconnect request before it is readable: released", async () => {
    const bench = new Bench({}, 100);
    bench.kernel.setIoTimeout = async () => {
      bench.kernel.identifier = undefined;
    };
    await expect(bench.device.attach(undefined)).rejects.toMatchObject({ code: "ERR_NOT_READABLE" });
    expect(bench.states).toEqual(["serving", "detached"]);
    expect(bench.server.last.isServed).toBe(false);
    await bench.close();
  });

  test("a detach meanwhile is refused, and the attach goes on", async () => {
    const bench = new Bench();
    let refused: unknown;
    bench.kernel.hooks.beforeConnect = async () => {
      refused = await bench.device.detach().catch((error: unknown) => error);
    };
    await bench.device.attach(undefined);
    expect(refused).toMatchObject({ code: "ERR_DEVICE_BUSY" });
    expect(bench.device.state).toBe("serving");
    await bench.close();
  });
});

describe("adopt", () => {
  test("begins with a failover, which is reported with the given cause", async () => {
    const bench = new Bench();
    bench.kernel.identifier = "one of ours";
    bench.kernel.addDeadSocket();
    await bench.device.adopt(7, [], "a dead manager left it behind");
    expect(await bench.outcome()).toMatchObject({
      result: "recovered",
      cause: "a dead manager left it behind",
    });
    expect(bench.states).toEqual(["serving", "reconnecting", "serving"]);
    expect(bench.kernel.links).toEqual([bench.server.last]);
    await bench.close();
  });
});
