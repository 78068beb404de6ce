/**
 * The channel between our processes: messages whole and in order, descriptors that arrive and do not leak, ends.
 */
import { closeSync, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { close } from "../../../../src/sys/libc/files.ts";
import { SOCK_NONBLOCK, SOCK_SEQPACKET, send, socketPair } from "../../../../src/sys/libc/sockets.ts";
import { Channel } from "../../../../src/sys/sockets/channel.ts";
import { isCloseOnExec, openDescriptors } from "../../../helpers/sockets/descriptors.ts";
import { until } from "../../../helpers/until.ts";

interface Message {
  readonly n: number;
  readonly text?: string;
}
interface End {
  readonly channel: Channel<Message, Message>;
  readonly got: Message[];
  readonly fds: number[];
  readonly ends: (Error | null)[];
}

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-channel-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

let a: End;
let b: End;
let rawA: number;
let before: Map<number, string>;

function open(fd: number): End {
  const end = { got: [] as Message[], fds: [] as number[], ends: [] as (Error | null)[] };
  const channel = new Channel<Message, Message>(fd, {
    message: (message, fds) => {
      end.got.push(message);
      end.fds.push(...fds);
    },
    end: (error) => end.ends.push(error),
  });
  return { channel, ...end };
}

beforeEach(() => {
  before = openDescriptors();
  const [left, right] = socketPair(SOCK_SEQPACKET, SOCK_NONBLOCK);
  rawA = left;
  a = open(left);
  b = open(right);
});
afterEach(() => {
  a.channel.close();
  b.channel.close();
  for (const fd of [...a.fds, ...b.fds]) close(fd);
  expect(openDescriptors()).toEqual(before);
});

describe("a channel", () => {
  test("carries messages both ways, in order, whole", async () => {
    const long = "ä€😀".repeat(5000);
    await Promise.all([
      a.channel.send({ n: 1 }),
      a.channel.send({ n: 2, text: long }),
      b.channel.send({ n: 3 }),
    ]);
    await until("all have come", () => b.got.length === 2 && a.got.length === 1);
    expect(b.got).toEqual([{ n: 1 }, { n: 2, text: long }]);
    expect(a.got).toEqual([{ n: 3 }]);
  });

  test("hears what a peer said before it left, also when the peer left without listening", async () => {
    // Both in one turn: nothing is read in between.
    void b.channel.send({ n: 1 });
    void a.channel.send({ n: 2 });
    void a.channel.send({ n: 3 });
    a.channel.close();
    await until("the end", () => b.ends.length === 1);
    expect(b.got).toEqual([{ n: 2 }, { n: 3 }]);
    expect(b.ends).toEqual([null]);
  });

  test("carries descriptors: the peer's are duplicates of the same file, close-on-exec, ours stay ours", async () => {
    const path = join(directory, "file");
    writeFileSync(path, "the bytes");
    const files = [openSync(path, "r"), openSync(path, "r")];
    await a.channel.send({ n: 1 }, files);
    await until("it has come", () => b.got.length === 1);
    for (const fd of files) closeSync(fd);
    expect(b.fds).toHaveLength(2);
    const bytes = Buffer.alloc(9);
    for (const fd of b.fds) {
      expect(isCloseOnExec(fd)).toBe(true);
      expect(fstatSync(fd).ino).toBe(fstatSync(b.fds[0] ?? -1).ino);
      readSync(fd, bytes, 0, 9, 0);
      expect(bytes.toString()).toBe("the bytes");
    }
  });

  test("carries as many descriptors as it promises, and refuses more", async () => {
    const files = Array.from({ length: 16 }, () => openSync("/etc/passwd", "r"));
    await a.channel.send({ n: 1 }, files);
    await until("it has come", () => b.got.length === 1);
    expect(b.fds).toHaveLength(16);
    expect(() => a.channel.send({ n: 2 }, [...files, 0])).toThrow(/17 descriptors/);
    for (const fd of files) closeSync(fd);
  });

  test("queues what the socket does not take: messages arrive in order with their descriptors", async () => {
    const file = openSync("/etc/passwd", "r");
    const count = 3000;
    let withFds = 0;
    const counting = setImmediate(function count(): void {
      withFds += b.fds.length;
      for (const fd of b.fds.splice(0)) close(fd);
      if (b.got.length < 3000) setImmediate(count);
    });
    const sends = Array.from({ length: count }, (_, n) => a.channel.send({ n }, n % 3 === 0 ? [file] : []));
    await Promise.all(sends);
    closeSync(file);
    await until("all have come", () => b.got.length === count);
    clearImmediate(counting);
    expect(b.got.map((message) => message.n)).toEqual(Array.from({ length: count }, (_, n) => n));
    expect(withFds + b.fds.length).toBe(1000);
  });

  test("refuses a message that is too long", () => {
    expect(() => a.channel.send({ n: 1, text: "x".repeat(65_536) })).toThrow(RangeError);
  });

  test("tells the peer's end once, after everything that came before it", async () => {
    for (let n = 0; n < 5; n += 1) await a.channel.send({ n });
    a.channel.close();
    await until("the end has come", () => b.ends.length > 0);
    expect(b.got).toHaveLength(5);
    expect([b.ends, a.ends]).toEqual([[null], []]);
    expect(b.channel.isOpen).toBe(false);
    b.channel.close();
    await expect(b.channel.send({ n: 9 })).rejects.toThrow("the channel has ended");
  });

  test("rejects what was still queued when it is closed", async () => {
    const sends = Array.from({ length: 2000 }, (_, n) => a.channel.send({ n, text: "x".repeat(500) }));
    a.channel.close();
    const results = await Promise.allSettled(sends);
    const states = results.map((result) => result.status);
    expect(states).toContain("rejected");
    expect(states.lastIndexOf("fulfilled")).toBeLessThan(states.indexOf("rejected"));
  });

  test("rejects a send to a peer that has left, and ends", async () => {
    b.channel.close();
    await expect(a.channel.send({ n: 1 })).rejects.toThrow(/EPIPE|ended/);
    await until("the end is told", () => a.ends.length === 1);
    expect(a.ends).toEqual([null]);
  });

  test("ends with an error on a message that cannot be ours", async () => {
    const tooLong = new Uint8Array(70_000);
    expect(send(rawA, tooLong, tooLong.length, 0)).toBe(tooLong.length);
    await until("the end is told", () => b.ends.length === 1);
    expect(b.ends[0]?.message).toContain("cut short");
    expect(b.got).toEqual([]);
  });

  test("may be closed by the handler of a message; the rest is not delivered", async () => {
    const seen: number[] = [];
    const [left, right] = socketPair(SOCK_SEQPACKET, SOCK_NONBLOCK);
    const sender = open(left);
    const receiver = new Channel<Message, Message>(right, {
      message: (message) => {
        seen.push(message.n);
        receiver.close();
      },
      end: () => seen.push(-1),
    });
    await Promise.all([sender.channel.send({ n: 1 }), sender.channel.send({ n: 2 })]);
    await until("the sender sees the end", () => sender.ends.length === 1);
    expect(seen).toEqual([1]);
  });
});
