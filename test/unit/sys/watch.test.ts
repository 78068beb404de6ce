/**
 * Watching descriptors with libuv: readiness, hang-ups, promises that settle, and an end to it.
 */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { close } from "../../../src/sys/libc/files.ts";
import { recv, SHUT_RDWR, SOCK_STREAM, send, shutdown, socketPair } from "../../../src/sys/libc/sockets.ts";
import { type Watch, watchHangUp, watchReadable } from "../../../src/sys/watch.ts";
import { until } from "../../helpers/until.ts";

let fd: number;
let peer: number;
let peerOpen: boolean;
let watch: Watch | undefined;
const say = (): number => send(peer, Uint8Array.of(1), 1, 0);
const take = (): number => recv(fd, new Uint8Array(1), 1, 0x40);
function hangUp(): void {
  if (peerOpen) close(peer);
  peerOpen = false;
}

beforeEach(() => {
  [fd, peer] = socketPair(SOCK_STREAM);
  peerOpen = true;
});
afterEach(() => {
  watch?.close();
  watch = undefined;
  close(fd);
  hangUp();
});
const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i += 1) await new Promise(setImmediate);
};

describe("watchReadable", () => {
  test.each([{ inPlace: true }, {}])("calls once per readiness that is taken, %o", async (options) => {
    let calls = 0;
    watch = watchReadable(
      fd,
      () => {
        calls += 1;
        take();
      },
      options,
    );
    await turns(5);
    expect(calls).toBe(0);
    for (let expected = 1; expected <= 3; expected += 1) {
      say();
      await until("it has called", () => calls === expected);
    }
    await turns(5);
    expect(calls).toBe(3);
  });

  test("calls again for what was not taken", async () => {
    let calls = 0;
    watch = watchReadable(fd, () => {
      calls += 1;
      if (calls === 3) take();
    });
    say();
    await until("it has called three times", () => calls === 3);
    await turns(5);
    expect(calls).toBe(3);
  });

  test("settles promises without the help of another event", async () => {
    const ready = new Promise<string>((resolve) => {
      watch = watchReadable(fd, () => {
        take();
        resolve("settled");
      });
    });
    say();
    expect(await ready).toBe("settled");
  });

  test("tells of a hang-up too", async () => {
    let got = -1;
    watch = watchReadable(fd, () => {
      got = take();
      watch?.close();
    });
    hangUp();
    await until("it has called", () => got === 0);
  });

  test("is silent once closed, in the same turn as well, and may be closed twice", async () => {
    let calls = 0;
    watch = watchReadable(fd, () => {
      calls += 1;
    });
    say();
    watch.close();
    watch.close();
    await turns(10);
    expect(calls).toBe(0);
  });

  test("ignores what is asked of it once it is closed", () => {
    // The bare handle would end the process here.
    watch = watchReadable(fd, () => {});
    watch.unref();
    watch.close();
    watch.unref();
    watch.ref();
  });

  test("may be closed from its own handler", async () => {
    let calls = 0;
    watch = watchReadable(fd, () => {
      calls += 1;
      watch?.close();
    });
    say();
    await until("it has called", () => calls === 1);
    await turns(10);
    expect(calls).toBe(1);
  });
});

describe("watchHangUp", () => {
  test.each([
    ["the peer closes", () => hangUp()],
    ["the peer shuts down", () => shutdown(peer, SHUT_RDWR)],
    ["a duplicate here shuts down", () => shutdown(fd, SHUT_RDWR)],
  ])("calls exactly once when %s, data unread or not", async (_, act) => {
    let calls = 0;
    watch = watchHangUp(fd, () => {
      calls += 1;
    });
    say();
    await turns(10);
    expect(calls).toBe(0);
    act();
    await until("it has called", () => calls === 1);
    await turns(10);
    expect(calls).toBe(1);
  });
});
