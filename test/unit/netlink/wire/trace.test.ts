/** trace.ts: the printed traffic, on or off by EROFS_NBD_DEBUG, and never an exception. */
import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { NbdNetlink } from "../../../../netlink/index.ts";
import { decodeMessages } from "../../../../netlink/wire/message.ts";
import { NBD_SCHEMA } from "../../../../netlink/wire/schema.ts";
import { formatMessage, traceDatagram, traceSinkFromEnvironment } from "../../../../netlink/wire/trace.ts";
import { ack, attribute, done, generic, message, sequenceOf, text, uint } from "../encode.ts";
import { createFakeFamilies } from "../fake-families.ts";

const request = generic(
  { type: 28, flags: 5, sequence: 9 },
  1,
  attribute(2, uint(8, 4096)),
  attribute(7, attribute(1, attribute(1, uint(4, 5)))),
  attribute(10, text('a "b"')),
);

function lines(datagram: Uint8Array): string[] {
  return decodeMessages(datagram).map((each) => formatMessage(each, NBD_SCHEMA));
}

describe("formatMessage", () => {
  test("names command, flags and attributes", () => {
    expect(lines(request)).toEqual([
      "nbd CONNECT seq=9 flags=REQUEST|ACK NBD_ATTR_SIZE_BYTES=4096 " +
        'NBD_ATTR_SOCKETS=[NBD_SOCK_ITEM=[NBD_SOCK_FD=5]] NBD_ATTR_BACKEND_IDENTIFIER="a \\"b\\""',
    ]);
    const dump = generic(
      { type: 28, flags: 0x1b01, sequence: 9 },
      5,
      attribute(9, attribute(1, attribute(2, uint(1, 1)))),
    );
    expect(lines(dump)).toEqual([
      "nbd STATUS seq=9 flags=REQUEST|DUMP|0x1800 NBD_ATTR_DEVICE_LIST=[NBD_DEVICE_ITEM=[NBD_DEVICE_CONNECTED=1]]",
    ]);
  });

  test("prints verdicts", () => {
    expect(lines(ack(request))).toEqual(["ACK ok seq=9 flags=CAPPED"]);
    const tlvs = [attribute(1, text("bad")), attribute(2, uint(4, 20)), attribute(5, uint(4, 7))];
    expect(lines(ack(request, { errno: 22, tlvs }))).toEqual([
      'ACK EINVAL (22) seq=9 flags=CAPPED|ACK_TLVS message="bad" offset=20 missing-type=7',
    ]);
    expect(lines(done(request, 0, 0x10))).toEqual(["DONE ok seq=9 flags=MULTI|DUMP_INTR"]);
  });

  test("describes the controller by itself", () => {
    const controller = generic({ type: 16, sequence: 1 }, 3, attribute(1, uint(2, 28)));
    expect(lines(controller)).toEqual(["nlctrl GETFAMILY seq=1 flags=0 CTRL_ATTR_FAMILY_ID=28"]);
  });

  test("shows bytes where it knows no name or cannot decode", () => {
    const unknown = generic({ type: 28, sequence: 1 }, 9, attribute(77, uint(2, 1)));
    expect(lines(unknown)).toEqual(["nbd command 9 seq=1 flags=0 attribute 77=0100"]);
    const lying = generic({ type: 28, sequence: 1 }, 5, attribute(9, Buffer.from([0xff, 0xff, 1, 0])));
    expect(lines(lying)).toEqual(["nbd STATUS seq=1 flags=0 NBD_ATTR_DEVICE_LIST=!ffff0100"]);
    expect(lines(message({ type: 28, sequence: 1 }, Buffer.from([5])))).toEqual([
      "undecodable type=28 seq=1 flags=0x0 05",
    ]);
    const [plain] = decodeMessages(generic({ type: 44, sequence: 1 }, 2, Buffer.alloc(100)));
    expect(plain === undefined ? "" : formatMessage(plain)).toBe(
      `family 44 command 2 seq=1 flags=0 ${"00".repeat(64)}… (100 bytes)`,
    );
  });

  test("does not follow nests without end", () => {
    let deep = attribute(7, uint(4, 1));
    for (let depth = 0; depth < 40; depth += 1) deep = attribute(7, deep);
    const shape = {
      name: "N",
      kind: "nested" as const,
      get element() {
        return shape;
      },
    };
    const schema = { familyName: "deep", commands: {}, attributes: { 7: shape } };
    const [only] = decodeMessages(generic({ type: 28, sequence: 1 }, 1, deep));
    expect(only === undefined ? "" : formatMessage(only, schema)).toMatch(
      /^deep command 1 seq=1 flags=0 (N=\[){8}N=[0-9a-f]+/,
    );
  });
});

describe("traceDatagram", () => {
  test("writes a line per message, and one for a datagram that cannot be decoded", () => {
    const written: string[] = [];
    traceDatagram((line) => written.push(line), "<", Buffer.concat([ack(request), done(request)]));
    traceDatagram((line) => written.push(line), "*", Buffer.from([1, 2]));
    expect(written).toEqual([
      "netlink < ACK ok seq=9 flags=CAPPED",
      "netlink < DONE ok seq=9 flags=MULTI",
      "netlink * undecodable datagram 0102",
    ]);
  });

  test("sees what a client sends and receives", async () => {
    const written: string[] = [];
    const fake = createFakeFamilies((bytes, kernel) => {
      kernel.deliver(generic({ type: 28, sequence: sequenceOf(bytes) }, 5, attribute(9)));
      kernel.deliver(ack(bytes));
    });
    const nbd = new NbdNetlink({ openTransport: fake.openTransport, trace: (line) => written.push(line) });
    await nbd.status(3);
    await nbd.close();
    expect(written.map((line) => line.replace(/seq=\d+/, "seq=N"))).toEqual([
      'netlink > nlctrl GETFAMILY seq=N flags=REQUEST|ACK CTRL_ATTR_FAMILY_NAME="nbd"',
      expect.stringMatching(
        /^netlink < nlctrl NEWFAMILY seq=N flags=0 CTRL_ATTR_FAMILY_NAME="nbd" CTRL_ATTR_FAMILY_ID=28 .*GROUP=\[CTRL_ATTR_MCAST_GRP_ID=7/,
      ),
      "netlink < ACK ok seq=N flags=CAPPED",
      "netlink > nbd STATUS seq=N flags=REQUEST|ACK NBD_ATTR_INDEX=3",
      "netlink < nbd STATUS seq=N flags=0 NBD_ATTR_DEVICE_LIST=[]",
      "netlink < ACK ok seq=N flags=CAPPED",
    ]);
  });
});

describe("EROFS_NBD_DEBUG", () => {
  test.each([
    [{}, false],
    [{ EROFS_NBD_DEBUG: "" }, false],
    [{ EROFS_NBD_DEBUG: "worker" }, false],
    [{ EROFS_NBD_DEBUG: "netlinks" }, false],
    [{ EROFS_NBD_DEBUG: "netlink" }, true],
    [{ EROFS_NBD_DEBUG: "worker, netlink" }, true],
  ])("%o traces: %s", (environment, isOn) => {
    expect(traceSinkFromEnvironment(environment) !== undefined).toBe(isOn);
  });

  test.each([
    ["netlink", /^netlink > nlctrl GETFAMILY .*CTRL_ATTR_FAMILY_NAME="nlctrl"\n/],
    ["other", /^$/],
  ])("EROFS_NBD_DEBUG=%s decides what the example prints on stderr", (topics, pattern) => {
    const options = { encoding: "utf8", env: { ...process.env, EROFS_NBD_DEBUG: topics } } as const;
    const command = ["examples/netlink-family.mjs", "nlctrl"];
    const { status, stdout, stderr } = spawnSync(process.execPath, command, options);
    expect(stderr).toMatch(pattern);
    expect(stdout).toBe("nlctrl: id 16, version 2\n  group notify: id 16\n");
    expect(status).toBe(0);
  });
});
