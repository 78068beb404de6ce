/** nbd-arguments.ts through the client: every bad argument is refused before a single byte is sent. */
import { expect, test } from "vitest";
import { NbdNetlink } from "../../../../netlink/index.ts";
import { createFakeFamilies } from "../fake-families.ts";

const good = {
  index: 3,
  sizeBytes: 4096,
  blockSizeBytes: 4096,
  timeoutSeconds: 0,
  deadConnectionTimeoutSeconds: 60,
  serverFlags: 3,
  clientFlags: 0,
  sockets: [5],
  backendIdentifier: "id",
};

const BAD: readonly (readonly [string, "TypeError" | "RangeError", unknown])[] = [
  ["index", "RangeError", -1],
  ["index", "RangeError", 0xffff_ffff],
  ["index", "RangeError", 1.5],
  ["index", "TypeError", "3"],
  ["sizeBytes", "RangeError", -1],
  ["sizeBytes", "RangeError", 2 ** 53],
  ["sizeBytes", "RangeError", 0.5],
  ["sizeBytes", "RangeError", Number.NaN],
  ["sizeBytes", "TypeError", 4096n],
  ["blockSizeBytes", "RangeError", 0],
  ["blockSizeBytes", "RangeError", 256],
  ["blockSizeBytes", "RangeError", 1000],
  ["blockSizeBytes", "RangeError", 131_072],
  ["timeoutSeconds", "RangeError", 0.5],
  ["timeoutSeconds", "RangeError", -1],
  ["timeoutSeconds", "RangeError", 2_147_484],
  ["timeoutSeconds", "RangeError", Number.POSITIVE_INFINITY],
  ["timeoutSeconds", "TypeError", null],
  ["deadConnectionTimeoutSeconds", "RangeError", 2 ** 32],
  ["deadConnectionTimeoutSeconds", "RangeError", 1.2],
  ["clientFlags", "RangeError", 2 ** 32],
  ["clientFlags", "RangeError", -1],
  ["sockets", "RangeError", []],
  ["sockets", "RangeError", [-1]],
  ["sockets", "RangeError", [2 ** 31]],
  ["sockets", "RangeError", [5, 6.5]],
  ["sockets", "TypeError", ["5"]],
  ["sockets", "TypeError", 5],
  ["sockets", "RangeError", Array.from({ length: 5461 }, () => 5)],
  ["backendIdentifier", "RangeError", ""],
  ["backendIdentifier", "RangeError", "a\nb"],
  ["backendIdentifier", "RangeError", "a\rb"],
  ["backendIdentifier", "RangeError", "a\0b"],
  ["backendIdentifier", "RangeError", "x".repeat(256)],
  ["backendIdentifier", "RangeError", "ä".repeat(128)],
  ["backendIdentifier", "TypeError", 7],
];

async function expectRefused(
  call: (nbd: NbdNetlink) => Promise<unknown>,
  name: string,
  field: string,
): Promise<void> {
  const fake = createFakeFamilies();
  const nbd = new NbdNetlink({ openTransport: fake.openTransport });
  await expect(call(nbd)).rejects.toMatchObject({
    name,
    message: expect.stringContaining(`cannot use ${field}`),
  });
  expect(fake.transports[0]?.sent).toEqual([]);
  await nbd.close();
}

test.each(BAD)("connect and reconfigure refuse %s %# with a %s", async (field, name, value) => {
  const bad = { ...good, [field]: value };
  await expectRefused((nbd) => nbd.connect(bad), name, field);
  await expectRefused((nbd) => nbd.reconfigure(bad), name, field);
});

test.each([
  "sizeBytes",
  "blockSizeBytes",
  "timeoutSeconds",
  "deadConnectionTimeoutSeconds",
  "serverFlags",
  "clientFlags",
  "sockets",
  "backendIdentifier",
])("connect refuses to go without %s", async (field) => {
  const bad = { ...good, [field]: undefined };
  await expectRefused((nbd) => nbd.connect(bad), "TypeError", field);
});

test("serverFlags are checked by connect", async () => {
  await expectRefused((nbd) => nbd.connect({ ...good, serverFlags: 2 ** 32 }), "RangeError", "serverFlags");
});

test.each([-1, 1.5, 0xffff_ffff])("disconnect and status refuse index %d", async (index) => {
  await expectRefused((nbd) => nbd.disconnect(index), "RangeError", "index");
  await expectRefused((nbd) => nbd.status(index), "RangeError", "index");
});

test("the limits themselves are accepted", async () => {
  const fake = createFakeFamilies((request, kernel) => kernel.failReceive(request.length === 0 ? 1 : 22));
  const nbd = new NbdNetlink({ openTransport: fake.openTransport });
  const limits = {
    ...good,
    index: 0xffff_fffe,
    sizeBytes: Number.MAX_SAFE_INTEGER,
    blockSizeBytes: 65_536,
    timeoutSeconds: 2_147_483,
    deadConnectionTimeoutSeconds: 0xffff_ffff,
    clientFlags: 0xffff_ffff,
    sockets: Array.from({ length: 5460 }, () => 0x7fff_ffff),
    backendIdentifier: "x".repeat(255),
  };
  await expect(nbd.connect(limits)).rejects.toMatchObject({ code: "ERR_NETLINK_SYSCALL" });
  await expect(nbd.reconfigure(limits)).rejects.toMatchObject({ code: "ERR_NETLINK_SYSCALL" });
  expect(fake.transports[0]?.sent).toHaveLength(3);
  await nbd.close();
});
