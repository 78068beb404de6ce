/** link-set.ts alone: link indexes, generations, and witnesses. Descriptors: kernel-ends.test.ts. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { WITNESS } from "../../../../src/supervisor/links/link-death.ts";
import { isHungUp } from "../../../../src/sys/libc/sockets.ts";
import { turns } from "../../../helpers/until.ts";
import { make, NEVER } from "./link-rig.ts";

beforeEach(() => {
  // Only these: descriptors are watched by the real event loop.
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("links", () => {
  test("all are dead until they are replaced; an open one is described", async () => {
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

  test("a replacement names the dead link, whose journal may be used again", async () => {
    const { links, server } = make(1);
    await links.replace(0, NEVER);
    const former = server.last;
    expect(former.request.former).toBeUndefined();
    former.hangUp();
    links.check("found dead");
    await links.replace(0, NEVER);
    expect(server.last.request.former?.number).toBe(former.number);
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

  test("a condemned link is dead, though its worker serves it", async () => {
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

  test("shutting down dead links spares the live ones", async () => {
    const { links, server } = make(2);
    for (const index of [0, 1]) await links.replace(index, NEVER);
    links.condemn([0], "never used");
    links.shutDownDead();
    expect(server.links.map(({ kernelFd }) => isHungUp(kernelFd))).toEqual([true, false]);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("a request or an end that comes before the link is in its set is not lost", async () => {
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
  test("waits for a request on each link", async () => {
    const { links, server } = make(2);
    for (const index of [0, 1]) await links.replace(index, NEVER);
    const seen = links.requestsSeen([0, 1], NEVER);
    server.links[1]?.request1();
    expect(await Promise.race([seen, turns().then(() => "waiting")])).toBe("waiting");
    server.links[0]?.request1();
    expect(await seen).toBe(true);
    links.release();
    vi.runAllTimers();
    server.dispose();
  });

  test("ends when a link dies, and when its signal aborts", async () => {
    const { links, server } = make(3);
    for (const index of [0, 1, 2]) await links.replace(index, NEVER);
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

  test("a link that was replaced meanwhile counts as dead", async () => {
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
  test("is a death if no worker explains it within the grace", async () => {
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

  test("is an ordinary end if the worker reports a disconnect within the grace", async () => {
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

  test("of a link that was replaced within the grace does not concern its successor", async () => {
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
