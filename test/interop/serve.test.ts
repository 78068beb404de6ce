/**
 * `erofs-nbd serve` and clients of other projects: nbdinfo, nbdcopy, qemu-img. They see the same server through
 * a unix socket and through TCP, and every byte they read is compared.
 */
import { execFile } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fillDirectory, makeImage } from "../helpers/images/erofs-image.ts";
import { MiniNbdClient } from "../helpers/nbd/mini-nbd-client.ts";
import { type ServeProcess, startServe } from "../helpers/nbd/serve-process.ts";
import { ensurePackages } from "../helpers/packages.ts";
import { freePort } from "../helpers/sockets/free-port.ts";

const run = promisify(execFile);
const IMAGE_FILES_BYTES = 12 * 1024 * 1024;

let directory: string;
let image: string;
let content: Buffer;
let server: ServeProcess | undefined;

beforeAll(async () => {
  ensurePackages(["libnbd-bin", "qemu-utils", "erofs-utils"]);
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-interop-"));
  image = join(directory, "image.erofs");
  fillDirectory(join(directory, "tree"), 30, IMAGE_FILES_BYTES);
  await makeImage(image, join(directory, "tree"));
  content = readFileSync(image);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));
afterEach(async () => {
  const ended = await server?.stop();
  server = undefined;
  // Whatever a client did, it is no reason for a server to complain or to end otherwise.
  if (ended !== undefined) {
    expect(ended.stderr.split("\n").filter((line) => !/^(serving .*|)$/.test(line))).toEqual([]);
    expect(ended.code).toBe(0);
  }
});

const transports: [string, () => Promise<string[]>][] = [
  ["a unix socket", async () => ["--socket", join(directory, "serve.sock")]],
  ["TCP", async () => ["--listen", `127.0.0.1:${await freePort()}`]],
];

describe.each(transports)("over %s", (_, where) => {
  async function serve(...more: string[]): Promise<string> {
    server = await startServe(...(await where()), ...more, image);
    return server.uri;
  }

  test("nbdinfo sees what is offered", async () => {
    const uri = await serve();
    const info = JSON.parse((await run("nbdinfo", ["--json", uri])).stdout);
    expect(info).toMatchObject({ protocol: "newstyle-fixed", TLS: false });
    expect(info.exports).toHaveLength(1);
    expect(info.exports[0]).toMatchObject({
      "export-name": "",
      "export-size": content.length,
      is_read_only: true,
      can_multi_conn: true,
      can_trim: false,
      can_zero: false,
      block_size_minimum: 1,
      block_size_maximum: 32 * 1024 * 1024,
    });
    expect((await run("nbdinfo", ["--size", uri])).stdout.trim()).toBe(`${content.length}`);
  });

  test("nbdinfo lists an export by its name, finds it by that name and by no other", async () => {
    const uri = await serve("--name", "the image");
    const list = JSON.parse((await run("nbdinfo", ["--json", "--list", uri])).stdout);
    expect(list.exports.map((one: Record<string, unknown>) => one["export-name"])).toEqual(["the image"]);
    const found = JSON.parse((await run("nbdinfo", ["--json", uri])).stdout);
    expect(found.exports[0]).toMatchObject({ "export-name": "the image" });
    const wrong = uri.replace("the%20image", "another");
    expect(wrong).not.toBe(uri);
    await expect(run("nbdinfo", [wrong])).rejects.toThrow(/export|No such file/i);
  });

  test.each([
    ["one connection", ["--connections=1", "--requests=1", "--synchronous"]],
    ["four connections", ["--connections=4", "--threads=4", "--requests=32"]],
    ["large requests", ["--connections=2", "--request-size=1048576"]],
    ["small requests", ["--connections=1", "--request-size=4096", "--requests=64"]],
  ])("nbdcopy copies it byte for byte: %s", async (__, args) => {
    const uri = await serve();
    const copy = join(directory, "nbdcopy.out");
    rmSync(copy, { force: true });
    await run("nbdcopy", [...args, uri, copy]);
    expect(readFileSync(copy).equals(content)).toBe(true);
  });

  test("qemu-img describes it, converts it, and finds it equal to the file", async () => {
    const uri = await serve();
    const info = JSON.parse((await run("qemu-img", ["info", "-f", "raw", "--output=json", uri])).stdout);
    expect(info).toMatchObject({ format: "raw", "virtual-size": content.length });
    const copy = join(directory, "qemu.out");
    await run("qemu-img", ["convert", "-f", "raw", "-O", "raw", uri, copy]);
    expect(readFileSync(copy).equals(content)).toBe(true);
    const compared = await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", uri, image]);
    expect(compared.stdout).toContain("Images are identical");
  });

  test("qemu-img compare notices a difference", async () => {
    const uri = await serve();
    const changed = join(directory, "changed");
    const bytes = Buffer.from(content);
    const at = content.length - 4097;
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    writeFileSync(changed, bytes);
    await expect(run("qemu-img", ["compare", "-f", "raw", "-F", "raw", uri, changed])).rejects.toMatchObject({
      code: 1,
      stdout: expect.stringContaining("mismatch"),
    });
  });

  test.each([
    [1, 512, 400],
    [32, 4096, 400],
    [64, 4096, 400],
    // Not beyond the image's end: this program does not stop there, and fails.
    [8, 1024 * 1024, 11],
  ])("qemu-img bench reads at depth %i, %i bytes each", async (depth, sizeBytes, count) => {
    const uri = await serve();
    const args = ["-f", "raw", "-t", "none", "-c", `${count}`, "-d", `${depth}`, "-s", `${sizeBytes}`];
    const { stdout } = await run("qemu-img", ["bench", ...args, uri]);
    expect(stdout).toContain("Run completed");
  });

  test("several clients at once each get everything", async () => {
    const uri = await serve();
    const copies = [1, 2, 3, 4].map((index) => join(directory, `copy-${index}`));
    for (const copy of copies) rmSync(copy, { force: true });
    await Promise.all(copies.map((copy) => run("nbdcopy", ["--connections=4", uri, copy])));
    for (const copy of copies) expect(readFileSync(copy).equals(content)).toBe(true);
  });

  test("writes are refused", async () => {
    const uri = await serve();
    const other = join(directory, "other");
    writeFileSync(other, Buffer.alloc(content.length, 0xee));
    await expect(run("nbdcopy", [other, uri])).rejects.toThrow(/read-only|readonly|permission/i);
    await expect(run("qemu-io", ["-f", "raw", "-c", "write 0 512", uri])).rejects.toThrow(
      /read.?only|Block node|permission/i,
    );
    expect(readFileSync(image).equals(content)).toBe(true);
    expect((await run("nbdinfo", ["--size", uri])).stdout.trim()).toBe(`${content.length}`);
  });
});

describe("images with holes, and sizes that are no multiple of a sector", () => {
  const MIB = 1 << 20;

  /** Data at the beginning, in the middle and in the last bytes; holes between. */
  function makeSparse(sizeBytes: number): { path: string; bytes: Buffer } {
    const path = join(directory, `sparse-${sizeBytes}`);
    const bytes = Buffer.alloc(sizeBytes);
    const fd = openSync(path, "w");
    ftruncateSync(fd, sizeBytes);
    for (const [at, length] of [
      [0, 100_000],
      [MIB, MIB / 2],
      [sizeBytes - 77, 77],
    ] as const) {
      // Without the superblock, which promises more.
      content.copy(bytes, at, MIB, MIB + length);
      writeSync(fd, bytes, at, length, at);
    }
    closeSync(fd);
    return { path, bytes };
  }

  test.each([4 * MIB, 4 * MIB + 1, 4 * MIB + 511, 4 * MIB + 777, 2 * MIB - 1])(
    "are copied by qemu-img and nbdcopy, which leave the holes out: %i bytes",
    async (sizeBytes) => {
      const { path, bytes } = makeSparse(sizeBytes);
      server = await startServe("--socket", join(directory, "serve.sock"), path);
      const copy = join(directory, "sparse.out");
      // A client that takes the end of the image for a hole without an end stays there for ever.
      await run("qemu-img", ["convert", "-f", "raw", "-O", "raw", server.uri, copy], { timeout: 60_000 });
      // It fills the last sector up.
      const padded = Buffer.concat([bytes, Buffer.alloc(-sizeBytes & 511)]);
      expect(readFileSync(copy).equals(padded)).toBe(true);
      expect(statSync(copy).blocks).toBeLessThanOrEqual(statSync(path).blocks + 16);
      await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", server.uri, path], { timeout: 60_000 });
      rmSync(copy);
      await run("nbdcopy", [server.uri, copy], { timeout: 60_000 });
      expect(readFileSync(copy).equals(bytes)).toBe(true);
      expect(statSync(copy).blocks).toBeLessThanOrEqual(statSync(path).blocks + 16);
    },
  );

  test("have a map for nbdinfo that is the file system's own", async () => {
    const { path, bytes } = makeSparse(4 * MIB + 777);
    server = await startServe("--socket", join(directory, "serve.sock"), path);
    const map = JSON.parse((await run("nbdinfo", ["--map", "--json", server.uri])).stdout) as {
      offset: number;
      length: number;
      type: number;
    }[];
    expect(map.reduce((end, { length }) => end + length, 0)).toBe(bytes.length);
    for (const { offset, length, type } of map) {
      expect([0, 3]).toContain(type);
      if (type === 3) expect(bytes.subarray(offset, offset + length).every((byte) => byte === 0)).toBe(true);
    }
    expect(map.filter(({ type }) => type === 3).length).toBeGreaterThan(1);
    const info = JSON.parse((await run("nbdinfo", ["--json", server.uri])).stdout);
    expect(info).toMatchObject({ structured: true });
    expect(info.exports[0]).toMatchObject({
      contexts: ["base:allocation"],
      can_df: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
    });
  });
});

describe("a client that dies", () => {
  test("in the middle of a copy leaves the server to the others", async () => {
    const path = join(directory, "serve.sock");
    server = await startServe("--socket", path, image);
    const client = await MiniNbdClient.open({ path });
    const reads = Array.from({ length: 64 }, (_, i) => client.read(i * 1000, 128 * 1024).catch(() => null));
    client.destroy();
    await Promise.all(reads);
    const copy = join(directory, "after.out");
    await run("nbdcopy", [server.uri, copy]);
    expect(readFileSync(copy).equals(content)).toBe(true);
  });
});
