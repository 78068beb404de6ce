/**
 * Mount option lists and calls of the mount helper: options of erofs-nbd, options for mount(8), errors.
 */
import { describe, expect, test } from "vitest";
import { DEFAULTS, readAttachParams } from "../../../../src/cli/attach/attach-params.ts";
import { readHelperCall } from "../../../../src/cli/mount/mount-call.ts";
import { NBD_OPTIONS, readMountOptions, splitOptions } from "../../../../src/cli/mount/mount-options.ts";
import type { MountRequest } from "../../../../src/cli/mount/mount-request.ts";
import { ErofsNbdError } from "../../../../src/errors.ts";

const read = (text: string) => readMountOptions(text, false);

describe("options of a mount", () => {
  test("none: read-only, and attach's defaults", () => {
    expect(read("")).toEqual({
      device: readAttachParams(DEFAULTS),
      runDir: undefined,
      forMount: ["ro"],
      isRemount: false,
      offsetBytes: 0,
      extraImages: [],
      isNofail: false,
      ignored: [],
    });
  });

  test("every option of erofs-nbd is removed and used", () => {
    const values: Record<string, string> = {
      device: "nbd7",
      connections: "3",
      "block-size": "1024",
      timeout: "30",
      "dead-timeout": "60",
      "io-timeout": "200",
      "hang-timeout": "5000",
      "run-dir": "/run/other",
    };
    const items = NBD_OPTIONS.map(({ name }) => `nbd.${name}=${values[name]}`);
    const found = read(`noatime,${items.join(",")},nodev`);
    expect(found.forMount).toEqual(["ro", "noatime", "nodev"]);
    expect(found.runDir).toBe("/run/other");
    expect(found.device).toEqual({
      interface: "any",
      index: 7,
      connections: 3,
      blockSizeBytes: 1024,
      timeoutSeconds: 30,
      deadTimeoutSeconds: 60,
      ioTimeoutMs: 200,
      hangTimeoutMs: 5000,
    });
  });

  test("the last of several wins", () => {
    expect(read("nbd.connections=2,nbd.connections=4").device.connections).toBe(4);
  });

  test("what fstab has beside goes on to mount(8), in its order; rw, ro and defaults say nothing new", () => {
    const line = "rw,defaults,_netdev,auto,user,x-systemd.requires=a.service,comment=b,noatime,dax=never";
    expect(read(line).forMount).toEqual([
      "ro",
      "_netdev",
      "auto",
      "user",
      "x-systemd.requires=a.service",
      "comment=b",
      "noatime",
      "dax=never",
    ]);
  });

  test("nofail is not passed on, remount is noted and passed on", () => {
    expect(read("nofail,remount,noatime")).toMatchObject({
      isNofail: true,
      isRemount: true,
      forMount: ["ro", "remount", "noatime"],
    });
  });

  test.each([
    ["fsoffset=8192", 8192],
    ["fsoffset=0x2000", 8192],
    ["fsoffset=512,noatime,fsoffset=4096", 4096],
    ["fsoffset=0", 0],
  ])("%s is passed on as a number", (text, bytes) => {
    const { offsetBytes, forMount } = read(text);
    expect(offsetBytes).toBe(bytes);
    const passed = forMount.filter((option) => option.startsWith("fsoffset"));
    expect(passed).toEqual(bytes === 0 ? [] : [`fsoffset=${bytes}`]);
  });

  test("images with further data are taken out of the list, in their order", () => {
    const { extraImages, forMount } = read('device=/b 2,noatime,device="/a,b",device=/c\\,d');
    expect(extraImages).toEqual(["/b 2", "/a,b", "/c,d"]);
    expect(forMount).toEqual(["ro", "noatime"]);
    expect(() => read("device=")).toThrow("invalid mount option device '': expected the path of an image");
  });

  test("commas in quotes and behind a backslash belong to their value", () => {
    expect(splitOptions('context="a:s0:c1,c2",,noatime,x-a=b\\,c,')).toEqual([
      'context="a:s0:c1,c2"',
      "noatime",
      "x-a=b\\,c",
    ]);
  });

  test.each<[string, RegExp]>([
    ["nbd.conections=2", /unknown mount option 'nbd\.conections'/],
    ["nbd.constructor=2", /unknown mount option/],
    ["nbd.=2", /unknown mount option/],
    ["nbd.connections", /invalid mount option 'nbd\.connections': expected a value: nbd\.connections=VALUE/],
    ["nbd.connections=", /nbd\.connections '': expected an integer/],
    ["nbd.connections=65", /nbd\.connections '65': expected an integer from 1 to 64/],
    ["nbd.timeout=0", /nbd\.timeout '0': expected an integer/],
    ["nbd.block-size=1000", /nbd\.block-size '1000': expected a power of two/],
    ["nbd.device=sda", /nbd\.device 'sda': expected an nbd device/],
    ...["", "=", "=abc", "=-512", "=100", "=1e3", "=010000", "=0x", "=9007199254740992", "=4096k"].map(
      (value): [string, RegExp] => [
        `fsoffset${value}`,
        /^invalid mount option fsoffset '.*': expected a number of bytes/,
      ],
    ),
    ["nbd.hang-timeout=10", /nbd\.hang-timeout '10': expected an integer from 1500/],
  ])("%s is refused", (text, message) => {
    expect(() => read(text)).toThrow(message);
    expect(() => read(text)).toThrow(ErofsNbdError);
  });

  test("sloppy: unknown ones are left out and named, bad values are refused all the same", () => {
    const found = readMountOptions("nbd.conns=2,noatime,no-such,x-foo,cache_strategy=readahead", true);
    expect(found.ignored).toEqual(["nbd.conns=2", "no-such"]);
    expect(found.forMount).toEqual(["ro", "noatime", "x-foo", "cache_strategy=readahead"]);
    expect(() => readMountOptions("nbd.connections=0", true)).toThrow(/nbd\.connections '0'/);
  });
});

/** The request of a call that is one. */
function requestOf(...words: string[]): MountRequest {
  const call = readHelperCall(words);
  if (call.wants !== "mount") throw new Error(`It wants ${call.wants}`);
  return call.request;
}

describe("calls of the helper", () => {
  test("as mount(8) makes them, and with the flags in front or joined", () => {
    const wanted = requestOf(
      "/i",
      "/d",
      "-s",
      "-f",
      "-n",
      "-v",
      "-o",
      "rw,noatime",
      "-t",
      "erofs.nbd",
      "-N",
      "7",
    );
    expect(wanted).toMatchObject({
      image: "/i",
      directory: "/d",
      isFake: true,
      withoutTable: true,
      namespace: "7",
      keepMounted: true,
      options: { forMount: ["ro", "noatime"] },
    });
    expect(requestOf("-sfnv", "-N7", "-orw,noatime", "-terofs.nbd", "/i", "/d")).toEqual(wanted);
    expect(requestOf("-svnfo", "rw", "/i", "-o", "noatime", "/d", "-N", "7")).toEqual(wanted);
  });

  test("several option lists are one", () => {
    expect(requestOf("/i", "/d", "-o", "a,b", "-o", "c").options.forMount).toEqual(["ro", "a", "b", "c"]);
  });

  test("words may hold spaces, and begin with a dash behind --", () => {
    expect(requestOf("/a b", "/c d")).toMatchObject({ image: "/a b", directory: "/c d" });
    expect(requestOf("--", "-i", "-d")).toMatchObject({ image: "-i", directory: "-d" });
  });

  test("verbosity, help and version", () => {
    expect(readHelperCall(["/i", "/d", "-v"])).toMatchObject({ wants: "mount", isVerbose: true });
    expect(readHelperCall(["--help"])).toEqual({ wants: "help" });
    expect(readHelperCall(["-V"])).toEqual({ wants: "version" });
  });

  test.each([
    [[], /expected IMAGE and DIR, got 0 operands/],
    [["/i"], /got 1 operands/],
    [["/i", "/d", "/e"], /got 3 operands/],
    [["", "/d"], /empty IMAGE/],
    [["/i", ""], /empty DIR/],
    [["/i", "/d", "-x"], /unknown option '-x'/],
    [["/i", "/d", "-sxv"], /unknown option '-x'/],
    [["/i", "/d", "-o"], /argument missing/],
    [["/i", "/d", "-N", ""], /invalid -N '': expected a process id/],
    [["/i", "/d", "-t", "ext4"], /invalid -t 'ext4': expected erofs\.nbd or erofs/],
    [["/i", "/d", "-o", "nbd.x=1"], /unknown mount option 'nbd\.x'/],
  ])("%j is refused", (words, message) => {
    expect(() => readHelperCall(words)).toThrow(message);
    expect(() => readHelperCall(words)).toThrow(ErofsNbdError);
  });
});
