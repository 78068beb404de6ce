/** library/options.ts: the same as the command line asks for. */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { DEFAULTS, readAttachParams } from "../../../src/cli/attach-params.ts";
import { toAttachParams } from "../../../src/library/options.ts";
import { PARAMS } from "../../../src/manager/control-protocol.ts";

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
