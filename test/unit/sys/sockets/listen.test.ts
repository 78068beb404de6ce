/**
 * Listening sockets: paths and addresses, what they refuse, and the descriptors accepted from them.
 */
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { ERRNO } from "../../../../src/sys/errno.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { accept, MSG_DONTWAIT, recv } from "../../../../src/sys/libc/sockets.ts";
import { isListening, listenTcp, listenUnix } from "../../../../src/sys/sockets/listen.ts";
import { isCloseOnExec } from "../../../helpers/sockets/descriptors.ts";
import { freePort } from "../../../helpers/sockets/free-port.ts";
import { until } from "../../../helpers/until.ts";

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-listen-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const fds: number[] = [];
let paths = 0;
const newPath = (): string => join(directory, `${paths++}.sock`);
const kept = (fd: number): number => {
  fds.push(fd);
  return fd;
};
afterEach(() => {
  for (const fd of fds.splice(0)) close(fd);
});

const portInHex = (port: number): string => port.toString(16).toUpperCase().padStart(4, "0");

describe("listenUnix", () => {
  test("gives a socket that clients reach, and accepted ones that block nobody and leak nowhere", async () => {
    const path = newPath();
    const fd = kept(listenUnix(path));
    expect(accept(fd)).toBe(-ERRNO.EAGAIN);
    const client = connect(path);
    await once(client, "connect");
    const accepted = kept(accept(fd));
    expect(accepted).toBeGreaterThan(0);
    expect([fd, accepted].map(isCloseOnExec)).toEqual([true, true]);
    // Without MSG_DONTWAIT: the descriptor itself must not block.
    expect(recv(accepted, new Uint8Array(1), 1, 0)).toBe(-ERRNO.EAGAIN);
    client.destroy();
  });

  test.each([
    [
      "a path in use",
      () => {
        const path = newPath();
        kept(listenUnix(path));
        return path;
      },
      /EADDRINUSE/,
    ],
    [
      "a path that is a file",
      () => {
        const path = newPath();
        writeFileSync(path, "");
        return path;
      },
      /EADDRINUSE/,
    ],
    ["a directory that is not there", () => join(directory, "none", "x.sock"), /ENOENT/],
    ["a path of 108 bytes", () => `/${"x".repeat(107)}`, /longer than 107 bytes/],
  ])("refuses %s", (_, path, reason) => {
    expect(() => listenUnix(path())).toThrow(reason);
  });

  test("takes a path of 107 bytes", () => {
    const room = 107 - Buffer.byteLength(directory) - 1;
    const path = join(directory, "y".repeat(room));
    expect(Buffer.byteLength(path)).toBe(107);
    kept(listenUnix(path));
    expect(isListening(path)).toBe(true);
  });
});

describe("isListening", () => {
  test("tells a server from what one left behind and from nothing", () => {
    const path = newPath();
    expect(isListening(path)).toBe(false);
    const fd = listenUnix(path);
    expect(isListening(path)).toBe(true);
    close(fd);
    expect(isListening(path)).toBe(false);
  });

  test("tells a server whose queue is full", () => {
    const path = newPath();
    kept(listenUnix(path));
    for (let i = 0; i < 200; i += 1) expect(isListening(path)).toBe(true);
  });
});

describe("listenTcp", () => {
  test.each([
    ["127.0.0.1", "127.0.0.1"],
    ["::1", "::1"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["::ffff:127.0.0.1", "127.0.0.1"],
    ["::FFFF:7F00:1", "127.0.0.1"],
    ["localhost", "localhost"],
  ])("listens on %s", async (host, reached) => {
    const port = await freePort();
    const fd = kept(await listenTcp(host, port));
    const client = connect(port, reached);
    await once(client, "connect");
    const accepted = kept(accept(fd));
    expect(accepted).toBeGreaterThan(0);
    client.end("x");
    await until("the byte has come", () => recv(accepted, new Uint8Array(1), 1, MSG_DONTWAIT) === 1);
    client.destroy();
  });

  // A unicast address is never taken for the wildcard: all addresses of the machine would be open.
  test.each([
    ["::1", "00000000000000000000000001000000"],
    ["::0.0.0.1", "00000000000000000000000001000000"],
    ["0::0:0.0.0.1", "00000000000000000000000001000000"],
    ["::ffff:127.0.0.1", "0000000000000000FFFF00000100007F"],
    ["::", "0".repeat(32)],
  ])("binds %s to that address and no other", async (host, bound) => {
    const port = await freePort("::1");
    kept(await listenTcp(host, port));
    const listener = new RegExp(`^ *\\d+: ([0-9A-F]{32}):${portInHex(port)} \\S+ 0A `, "m");
    expect(listener.exec(readFileSync("/proc/net/tcp6", "latin1"))?.[1]).toBe(bound);
  });

  test("names the address that is in use", async () => {
    const port = await freePort();
    kept(await listenTcp("127.0.0.1", port));
    await expect(listenTcp("127.0.0.1", port)).rejects.toThrow(
      `cannot listen on 127.0.0.1:${port}: EADDRINUSE`,
    );
  });

  test("refuses an address that is not this machine's", async () => {
    await expect(listenTcp("192.0.2.1", 0)).rejects.toThrow(/EADDRNOTAVAIL/);
  });
});
