/**
 * The initramfs is read back with the system's own cpio reader (busybox or GNU), where there is one.
 */
import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { packCpio } from "../../kernel/lab/image/initramfs.mjs";

describe("packCpio", () => {
  test("lays members out as newc: hex head, name with NUL, data, each padded to four bytes", () => {
    const bytes = packCpio([{ path: "ab", mode: 0o100644, data: Buffer.from("hello") }]);
    expect(bytes.toString("latin1", 0, 6)).toBe("070701");
    expect(bytes.toString("latin1", 14, 22)).toBe("000081a4"); // mode
    expect(bytes.toString("latin1", 54, 62)).toBe("00000005"); // size of the data
    expect(bytes.toString("latin1", 94, 102)).toBe("00000003"); // size of the name
    // 110 bytes of head and 3 of name are padded to 116; then the data.
    expect(bytes.toString("latin1", 110, 124)).toBe("ab\0\0\0\0hello\0\0\0");
    const console = packCpio([{ path: "dev", mode: 0o020600, major: 5, minor: 1 }]);
    expect(console.toString("latin1", 78, 94)).toBe("0000000500000001"); // the device's major and minor
    expect(bytes.length % 4).toBe(0);
    expect(bytes.indexOf("TRAILER!!!")).toBeGreaterThan(0);
  });

  test.runIf(spawnSync("busybox", ["cpio", "--help"]).status === 0)("is understood by busybox cpio", () => {
    const bytes = packCpio([
      { path: "dir", mode: 0o040755 },
      { path: "dir/file", mode: 0o100600, data: Buffer.alloc(5_001, "x") },
      { path: "dev", mode: 0o020600, major: 5, minor: 1 },
    ]);
    const { stdout, status } = spawnSync("busybox", ["cpio", "-tv"], { input: bytes, encoding: "utf8" });
    expect(status).toBe(0);
    expect(stdout).toMatch(/^drwxr-xr-x .* dir$/m);
    expect(stdout).toMatch(/^-rw------- .* 5001 .* dir\/file$/m);
    expect(stdout).toMatch(/^crw------- .* dev$/m);
  });
});
