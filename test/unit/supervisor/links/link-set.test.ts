/** link-set.ts alone: slots, generations, witnesses, and which descriptors stay open for how long. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { WITNESS } from "../../../../src/supervisor/links/link-death.ts";
import { type LinkPlan, LinkSet } from "../../../../src/supervisor/links/link-set.ts";
import { isHungUp } from "../../../../src/sys/libc.ts";
import { FakeLinkServer } from "../fake-server.ts";
import { openSockets, turns } from "../waiting.ts";

const PLAN: LinkPlan = {
  settings: { identifier: "one of ours", connections: 1, hangTimeoutMs: 2000 },
  image: {
    spec: {
      type: "file",
      path: "/any",
      identity: { kind: "file", device: "8:1", inode: "5", sizeBytes: 4096, mtimeNs: "0" },
    },
    fd: -1,
    blockSizeBytes: 4096,
  },
  inFlight: () => 0,
};
const NEVER = new AbortController().signal;

function make(count: number): { links: LinkSet; server: FakeLinkServer; heard: string[] } {
  const server = new FakeLinkServer();
  const heard: string[] = [];
  const plan = { ...PLAN, settings: { ...PLAN.settings, connections: count } };
  const links = new LinkSet(plan, server, {
    lost: ({ cause, witness }) => heard.push(`lost: ${cause} (${witness})`),
    orphaned: ({ cause, silentMs }) => heard.push(`orphaned: ${cause} (${silentMs} ms)`),
    moved: (workerPid, stallMs) => heard.push(`moved to ${workerPid} in ${stallMs} ms`),
    explained: ({ cause, witness }) => heard.push(`explained: ${cause} (${witness})`),
    disconnected: () => heard.push("disconnected"),
    readErrors: (message, times) => heard.push(`${times} × ${message}`),
    exactness: () => {},
    repinned: () => heard.push("repinned"),
  });
  return { links, server, heard };
}

/** Whether a kernel end is still open in this process; numbers are used again, socket names are not. */
const isOpen = (socket: string): boolean => [...openSockets().values()].includes(socket);

beforeEach(() => {
  // Only these: descriptors are watched by the real event loop.
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("slots", () => {
  test("all are dead until they are filled; a filled one is described", async () => {
    const { links, server } = make(2);
    expect(links.dead).toEqual([0, 1]);
    expect(links.describe()).toEqual([]);
    expect(await links.replace(1, NEVER)).toBe(server.last.kernelFd);
    expect(links.dead).toEqual([0]);
    expect([links.isAlive(0), links.isAlive(1)]).toEqual([false, true]);
    expect(links.describe()).toEqual([{ index: 1, state: "up", workerPid: 1001, generation: 1 }]);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("a death counts once; better witnesses explain it", async () => {
    const { links, server, heard } = make(1);
    await links.replace(0, NEVER);
    server.last.hangUp();
    links.check("found dead");
    links.check("found dead again");
    server.last.kill();
    expect(heard).toEqual([
      `lost: found dead (${WITNESS.kernel})`,
      `explained: worker 1001 was killed by SIGKILL (${WITNESS.exit})`,
    ]);
    expect(links.describe()).toMatchObject([{ state: "down" }]);
    links.release();
    vi.runAllTimers();
  });

  test("a condemned link is dead, whatever its worker thinks", async () => {
    const { links, server, heard } = make(2);
    await links.replace(0, NEVER);
    links.condemn([0, 1], "never used");
    links.condemn([0], "never used");
    expect(heard).toEqual(["lost: never used (0)", "explained: never used (0)"]);
    links.shutDownDead();
    expect(isHungUp(server.last.kernelFd)).toBe(true);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("shutting down spares the links that live", async () => {
    const { links, server } = make(2);
    for (const slot of [0, 1]) await links.replace(slot, NEVER);
    links.condemn([0], "never used");
    links.shutDownDead();
    expect(server.links.map(({ kernelFd }) => isHungUp(kernelFd))).toEqual([true, false]);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("what came before the link was installed is not lost: a request, an end", async () => {
    const { links, server, heard } = make(2);
    server.plan.push(
      async (open) => {
        const link = open();
        link.request1();
        return link;
      },
      async (open) => {
        const link = open();
        link.kill();
        return link;
      },
    );
    await links.replace(0, NEVER);
    await links.replace(1, NEVER);
    expect(await links.requestsSeen([0], NEVER)).toBe(true);
    expect(links.dead).toEqual([1]);
    expect(heard).toEqual(["lost: worker 1002 was killed by SIGKILL (2)"]);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("counters add up over the generations", async () => {
    const { links, server } = make(1);
    for (const requests of [3, 4]) {
      await links.replace(0, NEVER);
      server.last.counters = { requests, readBytes: 10, readErrors: 1 };
      if (requests === 3) server.last.kill();
    }
    expect(links.counters).toEqual({ requests: 7, readBytes: 20, readErrors: 2 });
    links.release();
    expect(links.counters).toEqual({ requests: 7, readBytes: 20, readErrors: 2 });
    vi.runAllTimers();
    server.dispose();
  });
});

describe("requestsSeen", () => {
  test("waits for one on each slot", async () => {
    const { links, server } = make(2);
    for (const slot of [0, 1]) await links.replace(slot, NEVER);
    const seen = links.requestsSeen([0, 1], NEVER);
    server.links[1]?.request1();
    expect(await Promise.race([seen, turns().then(() => "waiting")])).toBe("waiting");
    server.links[0]?.request1();
    expect(await seen).toBe(true);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("is over when one dies, when its signal says so, and when everything is released", async () => {
    const { links, server } = make(3);
    for (const slot of [0, 1, 2]) await links.replace(slot, NEVER);
    const stop = new AbortController();
    const dying = links.requestsSeen([0], NEVER);
    const stopped = links.requestsSeen([1], stop.signal);
    const released = links.requestsSeen([2], NEVER);
    server.links[0]?.kill();
    expect(await dying).toBe(false);
    stop.abort();
    expect(await stopped).toBe(false);
    links.condemn([2], "given up");
    expect(await released).toBe(false);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("a slot that was replaced meanwhile counts as dead", async () => {
    const { links, server } = make(1);
    await links.replace(0, NEVER);
    const seen = links.requestsSeen([0], NEVER);
    server.last.kill();
    await links.replace(0, NEVER);
    server.last.request1();
    expect(await seen).toBe(false);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });
});

describe("a hang-up", () => {
  test("is a death when nobody explains it within the grace", async () => {
    const { links, server, heard } = make(1);
    await links.replace(0, NEVER);
    server.last.hangUp();
    await turns(20);
    expect(heard).toEqual([]);
    vi.runAllTimers();
    expect(heard).toEqual(["lost: the link's socket was hung up (0)"]);
    links.release();
    vi.runAllTimers();
  });

  test("is an ordinary end when the worker tells of a goodbye within the grace", async () => {
    const { links, server, heard } = make(1);
    await links.replace(0, NEVER);
    server.last.hangUp();
    await turns(20);
    vi.advanceTimersByTime(100);
    server.last.end({ kind: "disconnect" });
    expect(heard).toEqual(["disconnected"]);
    links.release();
    vi.runAllTimers();
    expect(heard).toEqual(["disconnected"]);
  });

  test("of a link that was replaced within the grace says nothing of its successor", async () => {
    const { links, server, heard } = make(1);
    await links.replace(0, NEVER);
    server.last.hangUp();
    await turns(20);
    server.last.kill();
    await links.replace(0, NEVER);
    vi.runAllTimers();
    expect(heard).toEqual(["lost: worker 1001 was killed by SIGKILL (2)"]);
    expect(links.dead).toEqual([]);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });
});

describe("descriptors", () => {
  test("an old kernel end outlives the replacement, and the hand-over, by a while", async () => {
    const { links, server } = make(1);
    await links.replace(0, NEVER);
    const first = server.last;
    first.request1();
    first.kill();
    await links.replace(0, NEVER);
    vi.runAllTimers();
    expect(isOpen(first.socket)).toBe(true);
    links.offered(true);
    vi.advanceTimersByTime(900);
    expect(isOpen(first.socket)).toBe(true);
    vi.advanceTimersByTime(200);
    expect(isOpen(first.socket)).toBe(false);
    expect(isOpen(server.last.socket)).toBe(true);
    links.release();
    vi.runAllTimers();
    expect(isOpen(server.last.socket)).toBe(false);
    server.dispose();
  });

  test("when the kernel took nothing, what it used is kept for the next offer, and only that", async () => {
    const { links, server } = make(1);
    await links.replace(0, NEVER);
    const used = server.last;
    used.request1();
    used.kill();
    await links.replace(0, NEVER);
    links.offered(false);
    links.condemn([0], "refused");
    const unused = server.last;
    await links.replace(0, NEVER);
    links.offered(false);
    vi.runAllTimers();
    expect([isOpen(used.socket), isOpen(unused.socket)]).toEqual([true, false]);
    links.offered(true);
    vi.runAllTimers();
    expect(isOpen(used.socket)).toBe(false);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("release closes everything, and twice is once", async () => {
    const { links, server } = make(3);
    for (const slot of [0, 1, 2]) await links.replace(slot, NEVER);
    server.links[1]?.kill();
    links.release();
    links.release();
    expect(server.links.map(({ isServed }) => isServed)).toEqual([false, false, false]);
    vi.runAllTimers();
    expect(server.links.map(({ socket }) => isOpen(socket))).toEqual([false, false, false]);
  });

  test("a link that comes after the release is closed, not kept", async () => {
    const { links, server, heard } = make(1);
    let give = (): void => {};
    server.plan.push(async (open) => {
      await new Promise<void>((resolve) => {
        give = resolve;
      });
      return open();
    });
    const replaced = links.replace(0, NEVER);
    links.release();
    give();
    await expect(replaced).rejects.toThrow("the device is released");
    expect(server.last.isServed).toBe(false);
    expect(isOpen(server.last.socket)).toBe(false);
    await turns();
    expect(heard).toEqual([]);
  });

  test("nothing is heard of a released link", async () => {
    const { links, server, heard } = make(1);
    await links.replace(0, NEVER);
    links.release();
    server.last.kill();
    links.check("found dead");
    await turns(20);
    vi.runAllTimers();
    expect(heard).toEqual([]);
  });
});
