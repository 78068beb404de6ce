/**
 * Opening an image by path, or through a descriptor: one clear error per reason, and no descriptor left behind.
 */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ErofsNbdError } from "../../../src/errors.ts";
import { type OpenImage, openHandedImage, openImage } from "../../../src/source/open-image.ts";
import { type FileSourceSpec, sourceUri } from "../../../src/source/source-spec.ts";
import { epollCreate } from "../../../src/sys/libc/epoll.ts";
import { duplicate, O_ACCMODE, O_PATH, openFlags } from "../../../src/sys/libc/files.ts";
import { SOCK_STREAM, socketPair } from "../../../src/sys/libc/sockets.ts";
import { isCloseOnExec, openDescriptors } from "../../helpers/sockets/descriptors.ts";

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-open-"));
const at = (name: string): string => join(directory, name);
const server = createServer();
beforeAll(async () => {
  writeFileSync(at("good"), "some bytes");
  writeFileSync(at("empty"), "");
  mkdirSync(at("directory"));
  symlinkSync("good", at("link"));
  symlinkSync("loop-b", at("loop-a"));
  symlinkSync("loop-a", at("loop-b"));
  symlinkSync("nowhere", at("dangling"));
  expect(spawnSync("mkfifo", [at("fifo")]).status).toBe(0);
  await new Promise<void>((resolve) => server.listen(at("socket"), resolve));
});
afterAll(async () => {
  await new Promise((resolve) => server.close(resolve));
  rmSync(directory, { recursive: true, force: true });
});

let before: Map<number, string>;
beforeEach(() => {
  before = openDescriptors();
});
afterEach(() => expect(openDescriptors()).toEqual(before));

describe("openImage", () => {
  test.each(["good", "link", "directory/../good"])("opens %s, and pins what it is", (name) => {
    const { fd, spec } = openImage(at(name));
    expect(isCloseOnExec(fd)).toBe(true);
    expect(spec).toEqual({
      type: "file",
      path: at("good"),
      identity: {
        kind: "file",
        device: expect.stringMatching(/^\d+:\d+$/),
        inode: expect.stringMatching(/^\d+$/),
        sizeBytes: 10,
        mtimeNs: expect.stringMatching(/^\d{19}$/),
        createdNs: expect.stringMatching(/^\d{19}$/),
        changedNs: expect.stringMatching(/^\d{19}$/),
      },
    });
    closeSync(fd);
  });

  test.each([
    ["missing", "cannot open image", "there is no such file"],
    ["dangling", "cannot open image", "there is no such file"],
    ["good/below", "cannot open image", "a part of the path is not a directory"],
    ["loop-a", "cannot open image", "too many symbolic links"],
    ["directory", "cannot use", "it is a directory"],
    ["empty", "cannot use", "it is empty"],
    ["fifo", "cannot use", "it is neither a regular file nor a block device"],
    ["socket", "cannot open image", "it is a socket"],
  ])("refuses %s: %s … %s", (name, what, why) => {
    const error = failure(at(name));
    expect(error).toMatchObject({ code: "ERR_IMAGE", message: `${what} ${at(name)}: ${why}` });
    expect(error.hint).toMatch(/^\S.*[^.]$/);
  });

  test("refuses a character device", () => {
    expect(failure("/dev/zero").message).toBe(
      "cannot use /dev/zero: it is neither a regular file nor a block device",
    );
  });

  test("refuses a file it may not read", () => {
    chmodSync(at("good"), 0);
    chmodSync(directory, 0o755);
    try {
      // Root may read everything: then another user has to ask. Built code, because that user cannot transform it.
      const module = fileURLToPath(new URL("../../../dist/src/source/open-image.js", import.meta.url));
      const program = `
        import { openImage } from ${JSON.stringify(module)};
        if (process.getuid() === 0) process.setuid(65534);
        try { openImage(${JSON.stringify(at("good"))}); } catch (error) { console.log(error.code, error.message); }`;
      const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
        encoding: "utf8",
        timeout: 60_000,
      });
      expect(stderr).toBe("");
      expect(stdout).toBe(`ERR_IMAGE cannot open image ${at("good")}: permission denied\n`);
    } finally {
      chmodSync(at("good"), 0o644);
    }
  });
});

describe("openHandedImage", () => {
  /** The image of a descriptor that this test has opened, which goes with the call. */
  const handed = (path: string, flags: number | string): OpenImage =>
    openHandedImage(openSync(path, flags), "NAME");

  test.each([
    ["r", "good"],
    ["r+", "good"],
    ["r", "link"],
  ])("opened with %s: %s is opened anew, for reading alone, and has its own name", (flags, name) => {
    const { fd, spec } = handed(at(name), flags);
    expect(isCloseOnExec(fd)).toBe(true);
    expect(openFlags(fd) & O_ACCMODE).toBe(0);
    expect(spec).toMatchObject({ path: at("good"), identity: { kind: "file", sizeBytes: 10 } });
    expect(spec.isHandedIn).toBeUndefined();
    closeSync(fd);
  });

  test("the position and the flags stay its owner's", () => {
    const own = openSync(at("good"), "r");
    const { fd } = openHandedImage(duplicate(own), "NAME");
    readSync(own, Buffer.alloc(4));
    expect([own, fd].map((one) => positionOf(one))).toEqual([4, 0]);
    closeSync(fd);
    closeSync(own);
  });

  test("a file that has no path any more, or another one has its path by now", () => {
    writeFileSync(at("gone"), "deleted");
    const first = openSync(at("gone"), "r");
    rmSync(at("gone"));
    const { fd, spec } = openHandedImage(duplicate(first), "NAME");
    expect(spec).toMatchObject({ path: `${at("gone")} (deleted)`, isHandedIn: true });
    expect(sourceUri(spec)).toBe(`descriptor:${at("gone")} (deleted)`);
    // What the kernel adds to a name is no proof.
    writeFileSync(at("gone (deleted)"), "another");
    expect(openHanded(first)).toMatchObject({ isHandedIn: true });
    rmSync(at("gone (deleted)"));
    closeSync(fd);
  });

  const openHanded = (fd: number): FileSourceSpec => {
    const image = openHandedImage(fd, "NAME");
    closeSync(image.fd);
    return image.spec;
  };

  const FAILURES: ReadonlyArray<[what: string, flags: number | string, why: string]> = [
    ["good", O_PATH, "its descriptor was not opened for reading"],
    ["good", "a", "its descriptor was not opened for reading"],
    ["directory", "r", "it is a directory"],
    ["fifo", "r+", "it is neither a regular file nor a block device"],
    ["empty", "r", "it is empty"],
  ];
  test.each(FAILURES)("refuses %s, opened with %s: %s", (name, flags, why) => {
    expect(() => handed(at(name), flags)).toThrow(`cannot use NAME: ${why}`);
  });

  test("refuses /dev/zero, a socket and an event counter", () => {
    const why = "cannot use NAME: it is neither a regular file nor a block device";
    expect(() => handed("/dev/zero", "r")).toThrow(why);
    const [one, other] = socketPair(SOCK_STREAM);
    expect(() => openHandedImage(one, "NAME")).toThrow(why);
    closeSync(other);
    expect(() => openHandedImage(epollCreate(), "NAME")).toThrow(why);
  });
});

const positionOf = (fd: number): number =>
  Number(/^pos:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1]);

function failure(path: string): ErofsNbdError {
  try {
    closeSync(openImage(path).fd);
  } catch (error) {
    if (error instanceof ErofsNbdError) return error;
    throw error;
  }
  throw new Error(`${path} was opened`);
}
