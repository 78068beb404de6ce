/**
 * The epoll instance: events carry their slots, interests change, removed descriptors stay silent.
 */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { EPOLLHUP, EPOLLIN, EPOLLOUT, Epoll } from "../../../src/sys/epoll.ts";
import { SystemError } from "../../../src/sys/errno.ts";
import { close, duplicate } from "../../../src/sys/libc/files.ts";
import { recv, SOCK_STREAM, send, socketPair } from "../../../src/sys/libc/sockets.ts";

let epoll: Epoll;
let fds: number[];
beforeEach(() => {
  epoll = new Epoll();
  fds = [];
});
afterEach(() => {
  epoll.close();
  for (const fd of fds) close(fd);
});

function pair(): [number, number] {
  const both = socketPair(SOCK_STREAM);
  fds.push(...both);
  return both;
}
const say = (fd: number): number => send(fd, Uint8Array.of(1), 1, 0);

/** slot → events of one wait. */
function events(timeoutMs = 0): Map<number, number> {
  const count = epoll.wait(timeoutMs);
  return new Map(Array.from({ length: count }, (_, i) => [epoll.tokenAt(i), epoll.eventsAt(i)]));
}

describe("epoll", () => {
  test("reports nothing when nothing is there, everything that is, and again until it is taken", () => {
    const pairs = Array.from({ length: 10 }, pair);
    for (const [slot, [fd]] of pairs.entries()) epoll.add(fd, EPOLLIN, slot + 1);
    expect(events()).toEqual(new Map());
    for (const slot of [2, 5, 9]) say(pairs[slot]?.[1] ?? -1);
    const expected = new Map([3, 6, 10].map((slot) => [slot, EPOLLIN]));
    expect(events()).toEqual(expected);
    expect(events(1000)).toEqual(expected);
    recv(pairs[5]?.[0] ?? -1, new Uint8Array(1), 1, 0);
    expect([...events().keys()].sort()).toEqual([10, 3]);
  });

  test("carries the largest slot", () => {
    const [fd] = pair();
    epoll.add(fd, EPOLLOUT, 0xffff_fffe);
    expect(events()).toEqual(new Map([[0xffff_fffe, EPOLLOUT]]));
  });

  test("changes what it watches", () => {
    const [fd, peer] = pair();
    epoll.add(fd, EPOLLIN, 7);
    say(peer);
    epoll.modify(fd, EPOLLOUT, 8);
    expect(events()).toEqual(new Map([[8, EPOLLOUT]]));
    epoll.modify(fd, 0, 9);
    expect(events()).toEqual(new Map());
  });

  test("reports a hang-up even without an interest", () => {
    const [fd, peer] = pair();
    epoll.add(fd, 0, 1);
    close(peer);
    fds.pop();
    expect((events().get(1) ?? 0) & EPOLLHUP).toBe(EPOLLHUP);
  });

  test("is silent about a removed descriptor although a duplicate keeps its socket open", () => {
    const [fd, peer] = pair();
    fds.push(duplicate(fd));
    epoll.add(fd, EPOLLIN, 1);
    epoll.remove(fd);
    say(peer);
    expect(events()).toEqual(new Map());
    epoll.add(fd, EPOLLIN, 2);
    expect(events()).toEqual(new Map([[2, EPOLLIN]]));
  });

  test("reports more than fit into one wait in the next ones", () => {
    const pairs = Array.from({ length: 150 }, pair);
    const missing = new Set<number>();
    for (const [slot, [fd]] of pairs.entries()) {
      epoll.add(fd, EPOLLOUT, slot);
      missing.add(slot);
    }
    for (let round = 0; round < 10 && missing.size > 0; round += 1)
      for (const slot of events().keys()) missing.delete(slot);
    expect(missing.size).toBe(0);
  });

  test("names what went wrong", () => {
    const [fd] = pair();
    epoll.add(fd, EPOLLIN, 1);
    expect(() => epoll.add(fd, EPOLLIN, 2)).toThrow("cannot epoll_ctl ADD: EEXIST (17)");
    expect(() => epoll.modify(-1, EPOLLIN, 2)).toThrow(SystemError);
  });
});
