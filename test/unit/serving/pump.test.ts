/**
 * The pump: events reach their owners, the event loop is not starved, foreign descriptors make it give way.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Pump } from "../../../src/serving/pump.ts";
import { EPOLLIN, EPOLLOUT } from "../../../src/sys/epoll.ts";
import { close } from "../../../src/sys/libc/files.ts";
import {
  MSG_DONTWAIT,
  recv,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  send,
  socketPair,
} from "../../../src/sys/libc/sockets.ts";
import { watchReadable } from "../../../src/sys/watch.ts";
import { until } from "../../helpers/until.ts";

let pump: Pump;
let fds: number[];
beforeEach(() => {
  pump = new Pump();
  fds = [];
});
afterEach(() => {
  pump.close();
  for (const fd of fds) close(fd);
});

function pair(): [number, number] {
  const both = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  fds.push(...both);
  return both;
}
const say = (fd: number): number => send(fd, Uint8Array.of(1), 1, 0);
const take = (fd: number): number => recv(fd, new Uint8Array(1), 1, MSG_DONTWAIT);

describe("the pump", () => {
  test("brings events to their owners", async () => {
    const pairs = [pair(), pair(), pair()];
    const got: [number, number][] = [];
    for (const [index, [fd]] of pairs.entries()) {
      pump.add(fd, EPOLLIN, {
        onEvents: (events) => {
          got.push([index, events]);
          take(fd);
        },
      });
    }
    say(pairs[2]?.[1] ?? -1);
    say(pairs[0]?.[1] ?? -1);
    await until("both have come", () => got.length === 2);
    expect(got.sort()).toEqual([
      [0, EPOLLIN],
      [2, EPOLLIN],
    ]);
  });

  test("changes interests, and gives a reused token no event of its former owner", async () => {
    const [first, firstPeer] = pair();
    const [second, secondPeer] = pair();
    const got: string[] = [];
    const slot = pump.add(first, EPOLLOUT, {
      onEvents: (events) => {
        got.push(`first ${events}`);
        pump.modify(first, 0, slot);
      },
    });
    await until("the first was called", () => got.length === 1);
    pump.modify(first, EPOLLIN, slot);
    // Both are ready in one round; the first to be called removes the other and takes a new slot for it.
    const other = pump.add(second, EPOLLIN, { onEvents: () => got.push("second, in its old slot") });
    say(firstPeer);
    say(secondPeer);
    pump.remove(first, slot);
    pump.remove(second, other);
    const again = pump.add(second, EPOLLIN, {
      onEvents: () => {
        take(second);
        got.push("second");
      },
    });
    await until("the second was called", () => got.includes("second"));
    expect(got).toEqual([`first ${EPOLLOUT}`, "second"]);
    expect([slot, other]).not.toContain(again);
    await new Promise(setImmediate);
    expect([slot, other]).toContain(pump.add(first, 0, { onEvents: () => {} }));
  });

  test("lets timers, immediates and promises run beside a socket that is always ready", async () => {
    const [fd, peer] = pair();
    let events = 0;
    say(peer);
    pump.add(fd, EPOLLIN, {
      onEvents: () => {
        events += 1;
      },
    });
    await new Promise((resolve) => setTimeout(resolve, 1));
    await new Promise(setImmediate);
    expect(events).toBeGreaterThan(0);
    const seen = events;
    // Timers that are due together run in one go, and on a busy machine this one may be due at once.
    for (let turn = 0; turn < 100 && events === seen; turn += 1)
      await new Promise((resolve) => setTimeout(resolve, 1));
    expect(events).toBeGreaterThan(seen);
  });

  test("gives way to a foreign descriptor although its own sockets are always ready", async () => {
    const [busy, busyPeer] = pair();
    const [foreign, foreignPeer] = pair();
    say(busyPeer);
    let busyEvents = 0;
    let eventsAtSay = 0;
    const waited: number[] = [];
    pump.add(busy, EPOLLIN, {
      onEvents: () => {
        busyEvents += 1;
      },
    });
    let served = 0;
    const watch = watchReadable(foreign, () => {
      served += 1;
      waited.push(busyEvents - eventsAtSay);
      take(foreign);
    });
    pump.yieldTo(foreign, EPOLLIN);
    for (let round = 1; round <= 5; round += 1) {
      eventsAtSay = busyEvents;
      say(foreignPeer);
      await until("the foreign descriptor was served", () => served === round);
    }
    watch.close();
    // A whole slice has thousands of them.
    expect(Math.max(...waited)).toBeLessThan(100);
  });

  test("lets an exception end the process, as any uncaught one does", () => {
    const at = (path: string): string => fileURLToPath(new URL(`../../../dist/src/${path}`, import.meta.url));
    const program = `
      import { Pump } from ${JSON.stringify(at("serving/pump.js"))};
      import { socketPair, send } from ${JSON.stringify(at("sys/libc/sockets.js"))};
      const [fd, peer] = socketPair(1);
      new Pump().add(fd, 1, { onEvents() { throw new Error("a bug in a link"); } });
      send(peer, Uint8Array.of(1), 1, 0);`;
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
      encoding: "utf8",
      timeout: 60_000,
    });
    expect(stderr).toContain("a bug in a link");
    expect(status).toBe(1);
  });
});
