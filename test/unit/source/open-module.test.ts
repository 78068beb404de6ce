/** open-module.ts: which files may be source modules, and in how many words the others are refused. */
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openModule } from "../../../src/source/open-module.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { openDescriptors } from "../../helpers/sockets/descriptors.ts";

let directory: string;
let path: string;
let before: number;

beforeEach(() => {
  before = openDescriptors().size;
  directory = realpathSync(mkdtempSync(join(tmpdir(), "erofs-nbd-module-")));
  path = join(directory, "source.mjs");
  writeFileSync(path, "export const open = () => ({});");
});
afterEach(() => {
  rmSync(directory, { recursive: true });
  expect(openDescriptors().size).toBe(before);
});

const refusal = (words: string): Error =>
  expect.objectContaining({ code: "ERR_SOURCE", message: expect.stringContaining(words) }) as Error;

describe("openModule", () => {
  test("opens a file and says where it really is", () => {
    symlinkSync(path, join(directory, "link.mjs"));
    const module = openModule(join(directory, "link.mjs"));
    expect(module.path).toBe(path);
    close(module.fd);
  });

  test("refuses what is no file", () => {
    mkdirSync(join(directory, "folder"));
    expect(() => openModule(join(directory, "missing.mjs"))).toThrow(refusal("there is no such file"));
    expect(() => openModule(join(directory, "folder"))).toThrow(refusal("it is not a regular file"));
    expect(() => openModule("/dev/null")).toThrow(refusal("it is not a regular file"));
  });

  test("refuses a module that any user may change, by itself or by a directory above it", () => {
    chmodSync(path, 0o666);
    expect(() => openModule(path)).toThrow(refusal(`every user may write ${path}`));
    chmodSync(path, 0o664);
    chmodSync(directory, 0o777);
    expect(() => openModule(path)).toThrow(refusal(`every user may write ${directory}`));
    chmodSync(directory, 0o1777);
    close(openModule(path).fd);
    chmodSync(directory, 0o700);
  });
});
