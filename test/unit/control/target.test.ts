/** target.ts: what names a device, and what is a path. */
import { closeSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { numberOf, readTarget } from "../../../src/control/target.ts";
import { openImage } from "../../../src/source/open-image.ts";
import { pathView } from "../../../src/source/path-view.ts";

describe("targets", () => {
  let directory = "";
  beforeAll(() => {
    directory = realpathSync(mkdtempSync(join(tmpdir(), "target-")));
    writeFileSync(join(directory, "image"), "x");
    symlinkSync("image", join(directory, "link"));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  test("a device in any spelling is an index", async () => {
    for (const text of ["nbd7", "/dev/nbd7", "7"]) expect(await readTarget(text)).toEqual({ index: 7 });
  });

  test("anything else is a path, absolute and without links", async () => {
    const seen = { view: pathView(), file: null };
    expect(await readTarget(join(directory, "gone"))).toEqual({ path: join(directory, "gone"), seen });
    expect(await readTarget("./3")).toEqual({ path: join(process.cwd(), "3"), seen });
    expect(await readTarget("nbd7p1")).toEqual({ path: join(process.cwd(), "nbd7p1"), seen });
  });

  test("a path says which file lies there, as an image's identity does", async () => {
    const { fd, spec } = openImage(join(directory, "image"));
    closeSync(fd);
    const { device, inode } = spec.identity;
    const file = { device, inode };
    for (const name of ["image", "link"])
      expect(await readTarget(join(directory, name))).toEqual({
        path: join(directory, "image"),
        seen: { view: pathView(), file },
      });
  });

  test("nothing at all, and an index beyond any kernel's, are refused", async () => {
    await expect(readTarget("")).rejects.toThrow(/invalid target ''/);
    await expect(readTarget("99999999")).rejects.toThrow(/an index from 0 to/);
  });

  test("a device number is spelled as the kernel does, however large its parts", () => {
    const made = (major: bigint, minor: bigint): bigint =>
      ((major & ~0xfffn) << 32n) | ((major & 0xfffn) << 8n) | ((minor & ~0xffn) << 12n) | (minor & 0xffn);
    for (const [major, minor] of [
      [0n, 35n],
      [43n, 7n],
      [43n, 4095n],
      [259n, 65_536n],
      [70_000n, 1_048_575n],
    ] as const)
      expect(numberOf(made(major, minor))).toBe(`${major}:${minor}`);
  });
});
