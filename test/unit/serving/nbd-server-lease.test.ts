/**
 * A server whose image is overwritten in place while its clients take their time: what they read is what was there, and
 * the writer waits for them, or the server parts with them.
 *
 * On tmpfs, whose leases count. The server is in this process, so writers are asynchronous.
 */
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { NbdServer } from "../../../src/serving/nbd-server.ts";
import type { FileSource } from "../../../src/source/file-source.ts";
import { close } from "../../../src/sys/libc/files.ts";
import {
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  recv,
  SOCK_STREAM,
  send,
  unreadBytes,
} from "../../../src/sys/libc/sockets.ts";
import { listenTcp, listenUnix } from "../../../src/sys/sockets/listen.ts";
import { openFileSource, patternAt } from "../../helpers/images/sources.ts";
import { requestHeader } from "../../helpers/nbd/mini-nbd-client.ts";
import { connectUnix } from "../../helpers/sockets/connect-unix.ts";
import { freePort } from "../../helpers/sockets/free-port.ts";
import { until } from "../../helpers/until.ts";

const SIZE = 1 << 20;
const READ = 128 * 1024;
const MADE_AT = 1_700_000_000;
/** NBD_OPT_EXPORT_NAME for the export "", by a client that wants no zeroes. */
const EXPORT = Buffer.from("00000003" + "49484156454f5054" + "00000001" + "00000000", "hex");
let directory: string;
let image: string;
let source: FileSource;
let server: NbdServer;
let log: string[];
const sockets: number[] = [];

beforeEach(async () => {
  directory = mkdtempSync("/dev/shm/erofs-nbd-serve-");
  image = join(directory, "image");
  writeFileSync(image, patternAt(0, SIZE));
  utimesSync(image, MADE_AT, MADE_AT);
  source = openFileSource(image);
  log = [];
});
afterEach(() => {
  for (const fd of sockets.splice(0)) close(fd);
  server.close();
  source.close();
  rmSync(directory, { recursive: true });
});

function serve(listenFd: number): void {
  server = new NbdServer(listenFd, source, "", { log: (_, message) => log.push(message) });
}

/** Reads so many bytes; fewer where the peer has ended. */
async function take(fd: number, wanted: number): Promise<Buffer> {
  const bytes = Buffer.alloc(wanted);
  let filled = 0;
  let ended = false;
  await until(`${wanted} bytes have come`, () => {
    for (let got = 1; got > 0 && filled < wanted; ) {
      got = recv(fd, bytes.subarray(filled), wanted - filled, MSG_DONTWAIT);
      if (got > 0) filled += got;
      else ended = got === 0;
    }
    return ended || filled === wanted;
  });
  return bytes.subarray(0, filled);
}

const say = (fd: number, bytes: Uint8Array): unknown =>
  expect(send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL)).toBe(bytes.length);

/** A client that reads when the test says so. */
async function connect(): Promise<number> {
  const fd = connectUnix(join(directory, "socket"), SOCK_STREAM);
  sockets.push(fd);
  await take(fd, 18);
  say(fd, EXPORT);
  await take(fd, 10);
  return fd;
}

/** Asks for so many reads, and returns when something of the replies lies in the socket. */
async function ask(fd: number, count: number): Promise<void> {
  for (let at = 0; at < count; at += 1) say(fd, requestHeader(0, 0, BigInt(at), BigInt(at * READ), READ));
  await until("replies lie in the socket", () => unreadBytes(fd) >= READ);
}

function expectReplies(bytes: Buffer, count: number): void {
  for (let at = 0; at < count; at += 1) {
    const reply = bytes.subarray(at * (16 + READ), (at + 1) * (16 + READ));
    expect(reply.readUInt32BE(4)).toBe(0);
    expect(reply.subarray(16).equals(patternAt(at * READ, READ))).toBe(true);
  }
}

let written = false;
/** Begins to overwrite all of the image, and returns when the server has heard of it. */
async function beginToWrite(): Promise<void> {
  written = false;
  void writeFile(image, Buffer.alloc(SIZE, 0xee), { flag: "r+" }).then(() => {
    written = true;
  });
  await until("the server has heard", () => server.exactness?.exact === "checked");
}

describe("a unix socket", () => {
  beforeEach(() => {
    serve(listenUnix(join(directory, "socket")));
    expect(server.exactness).toMatchObject({ exact: "lease", change: null });
  });

  test("a writer waits until the client has read what was sent; then reads fail until the image is back", async () => {
    const fd = await connect();
    await ask(fd, 4);
    await beginToWrite();
    expect(written).toBe(false);
    expectReplies(await take(fd, 4 * (16 + READ)), 4);
    await until("it has written", () => written);
    say(fd, requestHeader(0, 0, 9n, 0n, 4096));
    expect((await take(fd, 16)).readUInt32BE(4)).toBe(5);
    await until("it is logged", () => log.some((line) => line.endsWith("not what it was: it was modified")));
    await writeFile(image, patternAt(0, SIZE), { flag: "r+" });
    utimesSync(image, MADE_AT, MADE_AT);
    await until("it is leased again", () => server.exactness?.exact === "lease");
    await ask(fd, 2);
    expectReplies(await take(fd, 2 * (16 + READ)), 2);
  });

  test("another client is served meanwhile", async () => {
    const [slow, quick] = [await connect(), await connect()];
    await ask(slow, 2);
    await beginToWrite();
    await ask(quick, 1);
    expectReplies(await take(quick, 16 + READ), 1);
    expect(written).toBe(false);
    expectReplies(await take(slow, 2 * (16 + READ)), 2);
    await until("it has written", () => written);
  });

  test("a client that does not read is cut off, and what it was sent is unchanged until it has read it", async () => {
    const fd = await connect();
    await ask(fd, 2);
    await beginToWrite();
    await until("it is cut off", () => log.some((line) => line.startsWith("A client's link ended")));
    expect(written).toBe(false);
    expectReplies(await take(fd, 2 * (16 + READ)), 2);
    expect(await take(fd, 1)).toHaveLength(0);
    await until("it has written", () => written);
  });
});

test("over TCP replies are copied: a writer does not wait, and what was sent is unchanged", async () => {
  const port = await freePort();
  serve(await listenTcp("127.0.0.1", port));
  const reads = vi.spyOn(source, "read");
  const client = createConnection({ host: "127.0.0.1", port });
  let got = Buffer.alloc(0);
  client.on("data", (bytes) => {
    got = Buffer.concat([got, bytes]);
  });
  await until("the greeting", () => got.length === 18);
  client.write(EXPORT);
  await until("the export", () => got.length === 28);
  client.pause();
  got = Buffer.alloc(0);
  for (const at of [0, 1]) client.write(requestHeader(0, 0, BigInt(at), BigInt(at * READ), READ));
  await until("both are answered", () => reads.mock.calls.length === 2);
  await writeFile(image, Buffer.alloc(SIZE, 0xee), { flag: "r+" });
  client.resume();
  await until("the replies", () => got.length === 2 * (16 + READ));
  expectReplies(got, 2);
  client.destroy();
});
