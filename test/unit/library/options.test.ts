/** library/options.ts: the same as the command line asks for. */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { DEFAULTS, readAttachParams } from "../../../src/cli/attach/attach-params.ts";
import { attach } from "../../../src/library/attach.ts";
import { find, list } from "../../../src/library/find.ts";
import { NbdManager } from "../../../src/library/nbd-manager.ts";
import { type AttachOptions, toAttachParams } from "../../../src/library/options.ts";
import { PARAMS } from "../../../src/manager/control-server/params.ts";

test("the defaults are the command line's", () => {
  expect(toAttachParams("/images/a.erofs", {})).toEqual({
    image: "/images/a.erofs",
    forMount: false,
    ...readAttachParams(DEFAULTS),
  });
});

test("every option arrives, and the manager takes it", () => {
  const params = toAttachParams("/a", {
    interface: "netlink",
    index: 3,
    connections: 2,
    blockSizeBytes: 1024,
    timeoutSeconds: 5,
    deadTimeoutSeconds: 6,
    ioTimeoutMs: 7,
    hangTimeoutMs: 1800,
  });
  expect(params).toEqual({
    image: "/a",
    forMount: false,
    ...readAttachParams({
      netlink: true,
      device: "3",
      connections: "2",
      blockSize: "1024",
      timeout: "5",
      deadTimeout: "6",
      ioTimeout: "7",
      hangTimeout: "1800",
    }),
  });
  expect(PARAMS.attach.parse(params)).toEqual(params);
});

test("paths may be relative, or URLs; a module brings its options", () => {
  expect(toAttachParams("a.erofs", {}).image).toBe(resolve("a.erofs"));
  expect(toAttachParams("file:///with%20space", {}).image).toBe("/with space");
  expect(toAttachParams(pathToFileURL("/x/y"), {}).image).toBe("/x/y");
  const params = toAttachParams({ module: pathToFileURL("/m.js"), options: { a: [1, null] } }, {});
  expect(params).toMatchObject({ image: "/m.js", module: { options: { a: [1, null] } } });
  expect(toAttachParams({ module: "/m.js" }, {}).module).toEqual({ options: null });
  expect(PARAMS.attach.parse(params)).toEqual(params);
});

test("a module's options that are too large or too deep are refused", () => {
  const withOptions = (options: unknown): unknown => ({
    ...toAttachParams({ module: "/m.js" }, {}),
    module: { options },
  });
  let deep: unknown = 1;
  for (let depth = 0; depth < 100_000; depth += 1) deep = [deep];
  for (const bad of ["x".repeat(17_000), Array(20_000).fill(1), deep, undefined])
    expect(PARAMS.attach.safeParse(withOptions(bad)).success).toBe(false);
  expect(PARAMS.attach.safeParse(withOptions({ a: "x".repeat(16_000) })).success).toBe(true);
});

interface SplitOptions {
  readonly parts: string[];
}

test("a module's options may be of an interface, and arrive as JSON keeps them", () => {
  const options: SplitOptions = { parts: ["/a"] };
  const params = toAttachParams({ module: "/m.js", options }, {});
  expect(params.module).toEqual({ options: { parts: ["/a"] } });
  const circle: { self?: object } = {};
  circle.self = circle;
  for (const bad of [circle, { n: 1n }, () => {}])
    expect(() => toAttachParams({ module: "/m.js", options: bad }, {})).toThrow(
      /^invalid module options .*: expected a JSON value$/,
    );
});

describe("invalid arguments are refused", () => {
  const badArgument = expect.objectContaining({ code: "ERR_BAD_ARGUMENT" });

  test.each([[""], [new URL("https://example.org/a.erofs")], ["file://host/a"], [undefined], [null], [7]])(
    "source %j",
    (source) => {
      expect(() => toAttachParams(source as string, {})).toThrow(badArgument);
    },
  );

  test.each([[{ sizeBytes: 1, read() {} }], [{ module: "/m.js", read() {} }], [{ module: 7 }], [[]]])(
    "an object that is no source module: %o",
    (source) => {
      expect(() => toAttachParams(source as never, {})).toThrow(
        expect.objectContaining({
          code: "ERR_BAD_ARGUMENT",
          hint: expect.stringContaining("a custom source is a module"),
        }),
      );
    },
  );

  test.each([
    [{ conections: 2 }, "unknown option 'conections'"],
    [{ runDir: "/x" }, "unknown option 'runDir'"],
    [{ toString: 1 }, "unknown option 'toString'"],
    [{ index: Number.NaN }, "invalid index NaN: expected a non-negative integer"],
    [{ blockSizeBytes: "4096" }, "invalid blockSizeBytes '4096': expected a non-negative integer"],
    [{ index: null }, "invalid index null: expected a non-negative integer"],
    [{ timeoutSeconds: 1.5 }, "invalid timeoutSeconds 1.5: expected a non-negative integer, or 'never'"],
    [{ deadTimeoutSeconds: -1 }, "invalid deadTimeoutSeconds -1: expected a non-negative integer"],
    [
      { ioTimeoutMs: Number.POSITIVE_INFINITY },
      "invalid ioTimeoutMs Infinity: expected a non-negative integer",
    ],
    [{ interface: "tcp" }, "invalid interface 'tcp': expected one of netlink, ioctl, any"],
    [{ signal: {} }, "invalid signal {}: expected an AbortSignal"],
    [null, "invalid options null: expected an object"],
  ])("options %j", (options, why) => {
    expect(() => toAttachParams("/a", options as AttachOptions)).toThrow(badArgument);
    expect(() => toAttachParams("/a", options as AttachOptions)).toThrow(why);
  });

  test("undefined is as good as nothing", () => {
    const options = { index: undefined, signal: undefined } as unknown as AttachOptions;
    expect(toAttachParams("/a", options)).toEqual(toAttachParams("/a", {}));
  });

  test("by attach, find, list and NbdManager, before anything is done", async () => {
    const odd = { runDir: "" };
    await expect(attach("/a", odd)).rejects.toMatchObject(badArgument);
    await expect(find(1, odd)).rejects.toMatchObject(badArgument);
    await expect(list({ rundir: "/x" } as object)).rejects.toMatchObject(badArgument);
    expect(() => new NbdManager(odd)).toThrow(badArgument);
    expect(() => new NbdManager({} as { runDir: string })).toThrow(badArgument);
  });
});
