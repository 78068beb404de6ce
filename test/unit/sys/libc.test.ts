/**
 * The libc binding: results and negative errno numbers, checked descriptors, and the structures laid out by hand.
 */
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { ERRNO, errnoName, SystemError } from "../../../src/sys/errno.ts";
import { check } from "../../../src/sys/libc/bind.ts";
import * as epolls from "../../../src/sys/libc/epoll.ts";
import * as files from "../../../src/sys/libc/files.ts";
import * as memory from "../../../src/sys/libc/memory.ts";
import * as pipes from "../../../src/sys/libc/pipes.ts";
import * as processes from "../../../src/sys/libc/processes.ts";
import * as sockets from "../../../src/sys/libc/sockets.ts";
import { isCloseOnExec } from "../../helpers/sockets/descriptors.ts";

const libc = { check, ...epolls, ...files, ...memory, ...pipes, ...processes, ...sockets };

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-libc-"));
const path = join(directory, "file");
const fds: number[] = [];
afterAll(() => rmSync(directory, { recursive: true, force: true }));
afterEach(() => {
  for (const fd of fds.splice(0)) libc.close(fd);
});
const kept = (fd: number): number => {
  fds.push(fd);
  return fd;
};
const pair = (type = libc.SOCK_STREAM, flags = 0): [number, number] => {
  const both = libc.socketPair(type, flags);
  fds.push(...both);
  return both;
};

describe("a failed call", () => {
  const buffer = new Uint8Array(8);
  test.each<[string, () => number, number]>([
    ["close", () => libc.close(-1), ERRNO.EBADF],
    ["recv on nothing", () => libc.recv(-1, buffer, 8, 0), ERRNO.EBADF],
    ["recv when nothing is there", () => libc.recv(pair()[0], buffer, 8, libc.MSG_DONTWAIT), ERRNO.EAGAIN],
    ["send on a file", () => libc.send(kept(openSync("/etc/passwd", "r")), buffer, 8, 0), ERRNO.ENOTSOCK],
    ["pread of a directory", () => libc.pread(kept(openSync("/", "r")), buffer, 8, 0), ERRNO.EISDIR],
    [
      "pread at a negative offset",
      () => libc.pread(kept(openSync("/etc/passwd", "r")), buffer, 8, -1),
      ERRNO.EINVAL,
    ],
    [
      "epoll_ctl on itself",
      () => {
        const epoll = kept(libc.epollCreate());
        return libc.epollCtl(epoll, 1, epoll, new Uint8Array(16));
      },
      ERRNO.EINVAL,
    ],
    [
      "ioctl on a file that has none",
      () => libc.ioctl(kept(openSync("/etc/passwd", "r")), 0xab00, 0),
      ERRNO.ENOTTY,
    ],
    ["setsockopt", () => libc.setSocketOption(-1, libc.SOL_SOCKET, libc.SO_SNDBUF, 1), ERRNO.EBADF],
  ])("is a negative errno: %s", (_, call, errno) => {
    expect(call()).toBe(-errno);
  });

  test("is an error with call, subject and errno's name where nobody expects it", () => {
    expect(libc.check("open", 3, "x")).toBe(3);
    expect(() => libc.check("connect to", -ERRNO.ECONNREFUSED, "/run/x")).toThrow(
      "cannot connect to /run/x: ECONNREFUSED (111)",
    );
    try {
      libc.check("close", libc.close(-1));
    } catch (error) {
      expect(error).toBeInstanceOf(SystemError);
      expect(error).toMatchObject({ code: "ERR_SYSCALL", syscall: "close", errno: 9, errnoName: "EBADF" });
    }
    expect(() => libc.duplicate(-1)).toThrow("EBADF");
    expect(() => libc.socketPair(99)).toThrow(SystemError);
    expect(errnoName(4711)).toBe("errno 4711");
  });
});

describe("descriptors", () => {
  test("are all close-on-exec", () => {
    const [a, b] = pair();
    const made = [
      a,
      b,
      kept(libc.duplicate(a)),
      kept(libc.socket(libc.AF_INET, libc.SOCK_STREAM)),
      kept(libc.epollCreate()),
    ];
    expect(made.map(isCloseOnExec)).toEqual(made.map(() => true));
  });

  test("hold a lock against another opening of the same file", () => {
    writeFileSync(path, "");
    const [one, two] = [kept(openSync(path, "r")), kept(openSync(path, "r"))];
    expect(libc.flock(one, libc.LOCK_EX | libc.LOCK_NB)).toBe(0);
    expect(libc.flock(two, libc.LOCK_EX | libc.LOCK_NB)).toBe(-ERRNO.EAGAIN);
    fds.splice(fds.indexOf(one), 1);
    closeSync(one);
    expect(libc.flock(two, libc.LOCK_EX | libc.LOCK_NB)).toBe(0);
  });
});

describe("files", () => {
  test("are read at offsets beyond 4 GiB", () => {
    const fd = kept(openSync(path, "w+"));
    const at = 5 * 2 ** 30;
    writeSync(fd, Buffer.from("far out"), 0, 7, at);
    const bytes = new Uint8Array(16);
    expect(libc.pread(fd, bytes, 16, at)).toBe(7);
    expect(Buffer.from(bytes.subarray(0, 7)).toString()).toBe("far out");
    expect(libc.pread(fd, bytes, 16, at + 7)).toBe(0);
  });

  test("are sent from an offset, short at their end, without moving their position", () => {
    writeFileSync(path, "0123456789");
    const fd = kept(openSync(path, "r"));
    const [from, to] = pair();
    const bytes = new Uint8Array(16);
    const [readEnd, writeEnd] = libc.pipe().map(kept) as [number, number];
    expect(libc.spliceFromFile(fd, 4, writeEnd, 3)).toBe(3);
    expect(libc.spliceFromFile(fd, 8, writeEnd, 100)).toBe(2);
    expect(libc.spliceFromFile(fd, 10, writeEnd, 100)).toBe(0);
    expect(libc.spliceToSocket(readEnd, from, 100)).toBe(5);
    expect(libc.recv(to, bytes, 16, 0)).toBe(5);
    expect(Buffer.from(bytes.subarray(0, 5)).toString()).toBe("45689");
    expect(libc.pread(fd, bytes, 16, 0)).toBe(10);
  });

  test("are described as node describes them", () => {
    writeFileSync(path, "x".repeat(1234));
    const fd = kept(openSync(path, "r"));
    const statx = new DataView(new ArrayBuffer(256));
    expect(libc.statxInto(fd, 0x7ff, new Uint8Array(statx.buffer))).toBe(0);
    const known = fstatSync(fd, { bigint: true });
    expect(statx.getBigUint64(32, true)).toBe(known.ino);
    expect(statx.getBigUint64(40, true)).toBe(1234n);
    expect(statx.getBigInt64(112, true) * 1_000_000_000n + BigInt(statx.getUint32(120, true))).toBe(
      known.mtimeNs,
    );
  });
});

describe("pipes", () => {
  test("become as large as they may where they cannot be as large as asked for, and never smaller", () => {
    const limit = Number(readFileSync("/proc/sys/fs/pipe-max-size", "latin1"));
    const [, writeFd] = libc.pipe().map(kept) as [number, number];
    expect(libc.growPipe(writeFd, 2 * limit)).toBeGreaterThanOrEqual(limit);
    const size = libc.growPipe(writeFd, 4096);
    expect(size).toBeGreaterThanOrEqual(limit);
    expect(libc.growPipe(writeFd, 4096)).toBe(size);
  });
});

describe("sockets", () => {
  test("know who is at the other end", () => {
    expect(libc.peerCredentials(pair()[0])).toEqual({
      pid: process.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
    });
  });

  test("know whether a peer is there", () => {
    const [fd, peer] = pair();
    expect(libc.isHungUp(fd)).toBe(false);
    libc.send(peer, Uint8Array.of(1), 1, 0);
    expect(libc.isHungUp(fd)).toBe(false);
    libc.shutdown(peer, libc.SHUT_RDWR);
    expect(libc.isHungUp(fd)).toBe(true);
  });

  test("hold more once their buffer has grown", () => {
    const capacity = (grow: boolean): number => {
      const [fd] = pair(libc.SOCK_STREAM, libc.SOCK_NONBLOCK);
      if (grow) libc.growSendBuffer(fd, 2 ** 30);
      const piece = new Uint8Array(65_536);
      let total = 0;
      for (let sent = 0; sent >= 0 && total < 2 ** 24; sent = libc.send(fd, piece, piece.length, 0))
        total += sent;
      return total;
    };
    // Without the right to exceed the system's limit they may hold what they held before.
    const [plain, grown] = [capacity(false), capacity(true)];
    if (process.getuid?.() === 0) expect(grown).toBeGreaterThan(plain);
    else expect(grown).toBeGreaterThanOrEqual(plain);
  });

  test("keep a buffer that is large enough, whatever the limit of who asks again", () => {
    const [fd] = pair(libc.SOCK_STREAM);
    libc.growSendBuffer(fd, 64 * 1024);
    const before = libc.sendBufferBytes(fd);
    libc.growSendBuffer(fd, 16 * 1024);
    expect(libc.sendBufferBytes(fd)).toBe(before);
  });
});
