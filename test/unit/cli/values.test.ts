/**
 * Option values: what is taken, what is refused, and that the limits are the manager's.
 */
import { describe, expect, test } from "vitest";
import {
  NBD_PORT,
  readBlockSize,
  readDevice,
  readListenAddress,
  readTimeout,
  readWhole,
} from "../../../src/cli/values.ts";
import { MAX_INDEX, MAX_TIMEOUT_SECONDS } from "../../../src/limits.ts";

describe("integers", () => {
  test.each(["0", "7", "64"])("%j is taken", (text) => {
    expect(readWhole("--n", text, 0, 64)).toBe(Number(text));
  });

  test.each(["", " 1", "1 ", "12abc", "1.5", "-1", "+1", "1e3", "0x10", "007", "65", "99999999999999999999"])(
    "%j is refused: the error names the value and what is expected",
    (text) => {
      expect(() => readWhole("--n", text, 0, 64)).toThrowError(
        expect.objectContaining({
          code: "ERR_BAD_ARGUMENT",
          message: `invalid --n '${text}': expected an integer from 0 to 64`,
        }),
      );
    },
  );
});

test("a timeout is whole seconds or never; 0 is not never", () => {
  expect(readTimeout("--timeout", "never")).toBe(0);
  expect(readTimeout("--timeout", "30")).toBe(30);
  for (const text of ["0", "1.5", "-3", "Never", "30s", `${MAX_TIMEOUT_SECONDS + 1}`]) {
    expect(() => readTimeout("--timeout", text), text).toThrow(/or never$/);
  }
});

test("a block size is a power of two from 512 to 65536", () => {
  for (const size of [512, 4096, 65_536]) expect(readBlockSize("--block-size", `${size}`)).toBe(size);
  for (const text of ["256", "131072", "1000", "4k", "0", "-512"]) {
    expect(() => readBlockSize("--block-size", text), text).toThrow(/a power of two from 512 to 65536/);
  }
});

describe("devices", () => {
  test.each(["nbd3", "/dev/nbd3", "3"])("%s is device 3", (text) => {
    expect(readDevice("--device", text)).toBe(3);
  });

  test.each(["/dev/sda", "nbd", "nbd3p1", "nbd03", "/dev/nbd", "nbd-1", "dev/nbd3", ""])(
    "%j is no nbd device",
    (text) => {
      expect(() => readDevice("--device", text)).toThrow(/expected an nbd device: nbd3, \/dev\/nbd3 or 3/);
    },
  );

  test("an index beyond any kernel's is refused", () => {
    expect(() => readDevice("--device", `nbd${MAX_INDEX + 1}`)).toThrow(/an index from 0 to 1048575/);
  });
});

describe("addresses to listen on", () => {
  test.each([
    ["localhost", "localhost", NBD_PORT],
    ["127.0.0.1:1234", "127.0.0.1", 1234],
    ["[::1]", "::1", NBD_PORT],
    ["[fe80::1]:65535", "fe80::1", 65_535],
    ["[::ffff:127.0.0.1]:1", "::ffff:127.0.0.1", 1],
  ])("%s", (text, host, port) => {
    expect(readListenAddress("--listen", text)).toEqual({ host, port });
  });

  test.each([
    "",
    ":10809",
    "::1",
    "::1:10809",
    "[::1",
    "host:",
    "host:0",
    "host:65536",
    "host:1x",
    "[host]:1",
    "[127.0.0.1]:1",
    "[::1::2]:1",
    "[1:2:3]:1",
    "a b",
  ])("%j is refused", (text) => {
    expect(() => readListenAddress("--listen", text)).toThrowError(
      expect.objectContaining({ code: "ERR_BAD_ARGUMENT" }),
    );
  });

  test("an IPv6 address without brackets gets a hint", () => {
    expect(() => readListenAddress("--listen", "::1")).toThrowError(
      expect.objectContaining({ hint: expect.stringContaining("[::1]:10809") }),
    );
  });
});
