/** file-handle.ts on this machine's own file systems. Opening by handle needs root. */
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, expect, test } from "vitest";
import { type FileHandle, fileHandleOf, openByHandle } from "../../../../src/sys/files/file-handle.ts";
import { isCloseOnExec, openDescriptors } from "../../../helpers/sockets/descriptors.ts";

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-handle-"));
const at = (name: string): string => join(directory, name);
afterAll(() => rmSync(directory, { recursive: true, force: true }));
beforeEach(() => writeFileSync(at("image"), "some bytes"));

function handleOf(path: string): FileHandle | undefined {
  const fd = openSync(path, "r");
  try {
    return fileHandleOf(fd);
  } finally {
    closeSync(fd);
  }
}

/** Whether this process may, and the file system can. */
function canOpen(handle: FileHandle | undefined): handle is FileHandle {
  if (handle === undefined) return false;
  try {
    closeSync(openByHandle(handle));
    return true;
  } catch {
    return false;
  }
}

test("a handle is safe for JSON, and leads to its file after a rename", (context) => {
  const handle = handleOf(at("image"));
  if (!canOpen(handle)) return context.skip("no handles here");
  expect(handle).toEqual({
    fileSystem: expect.stringMatching(/^\d+:\d+$/),
    type: expect.any(Number),
    bytes: expect.stringMatching(/^([0-9a-f]{2})+$/),
  });
  const { ino } = statSync(at("image"));
  renameSync(at("image"), at("elsewhere"));
  const before = openDescriptors();
  const fd = openByHandle(JSON.parse(JSON.stringify(handle)) as FileHandle);
  expect(isCloseOnExec(fd)).toBe(true);
  expect(fstatSync(fd).ino).toBe(ino);
  closeSync(fd);
  expect(openDescriptors()).toEqual(before);
});

test("a handle of a file that is gone, of no file system, or of any bytes opens nothing and leaks nothing", () => {
  const handle = handleOf(at("image"));
  rmSync(at("image"));
  const before = openDescriptors();
  const some = handle ?? { fileSystem: "0:1", type: 1, bytes: "00" };
  for (const one of [some, { ...some, fileSystem: "0:0" }, { ...some, bytes: "ff".repeat(128) }])
    expect(() => openByHandle(one)).toThrow(/cannot open/);
  expect(openDescriptors()).toEqual(before);
});

test("what has no file handle has none: a pipe's end, a closed descriptor", () => {
  expect(fileHandleOf(2 ** 30)).toBeUndefined();
  expect(handleOf("/proc/self/status")).toBeUndefined();
});
