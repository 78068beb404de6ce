/** Kernel ends of a LinkSet: which descriptors stay open, and for how long. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { turns } from "../../../helpers/until.ts";
import { isOpen, make, NEVER } from "./link-rig.ts";

beforeEach(() => {
  // Only these: descriptors are watched by the real event loop.
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("descriptors", () => {
  test("an old kernel end stays open after the replacement, and for a second after the offer", async () => {
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

  test("when the kernel took nothing, only ends that it used are kept for the next offer", async () => {
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

  test("release closes everything, and may be repeated", async () => {
    const { links, server } = make(3);
    for (const index of [0, 1, 2]) await links.replace(index, NEVER);
    server.links[1]?.kill();
    links.release();
    links.release();
    expect(server.links.map(({ isServed }) => isServed)).toEqual([false, false, false]);
    vi.runAllTimers();
    expect(server.links.map(({ socket }) => isOpen(socket))).toEqual([false, false, false]);
  });

  test("a link that is opened after the release is closed", async () => {
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

  test("nothing is reported of a released link", async () => {
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
