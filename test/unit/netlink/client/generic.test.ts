/** generic.ts over a fake kernel that knows families: look-up, reload, dumps, requests. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { createFakeTransport, GenericNetlink, NBD_SCHEMA, u32 } from "../../../../netlink/index.ts";
import {
  ack,
  attribute,
  done,
  familyAttributes,
  generic,
  readRequest,
  sequenceOf,
  text,
  uint,
} from "../encode.ts";
import { createFakeFamilies, type FakeFamilies } from "../fake-families.ts";

const { EINVAL, ENOENT, EOPNOTSUPP } = constants.errno;
const status = { schema: NBD_SCHEMA, command: 5, attributes: [] };

function client(fake: FakeFamilies): GenericNetlink {
  return new GenericNetlink({ openTransport: fake.openTransport });
}

describe("family", () => {
  test("is looked up by name once, and again when asked afresh", async () => {
    const fake = createFakeFamilies();
    const netlink = client(fake);
    expect(await netlink.family("nbd")).toEqual({
      name: "nbd",
      id: 28,
      version: 1,
      headerSizeBytes: 0,
      maximumAttribute: 10,
      groups: [{ name: "nbd_mc_group", id: 7 }],
    });
    await netlink.family("nbd");
    expect(fake.lookUps).toEqual(["nbd"]);
    fake.families.set("nbd", { id: 30, groups: {} });
    expect(await netlink.family("nbd", { fresh: true })).toMatchObject({ id: 30, groups: [] });
    await netlink.close();
  });

  test("that does not exist has a code of its own and the hint for its name", async () => {
    const fake = createFakeFamilies();
    fake.families.delete("nbd");
    const netlink = client(fake);
    await expect(netlink.family("nbd")).rejects.toMatchObject({
      code: "ERR_NETLINK_NO_FAMILY",
      errno: ENOENT,
      command: "GETFAMILY",
      hint: expect.stringContaining("modprobe nbd"),
    });
    await expect(netlink.family("other")).rejects.toMatchObject({
      hint: expect.stringContaining("load the kernel module"),
    });
    fake.families.set("nbd", { id: 31, groups: {} });
    expect(await netlink.family("nbd")).toMatchObject({ id: 31 });
    await netlink.close();
  });

  test.each([
    ["nothing", Buffer.alloc(0)],
    ["no id", attribute(2, text("nbd"))],
    ["no name", attribute(1, uint(2, 28))],
    ["an id of four bytes", Buffer.concat([attribute(2, text("nbd")), attribute(1, uint(4, 28))])],
    [
      "a group without a name",
      Buffer.concat([familyAttributes("nbd", 28, {}), attribute(7, attribute(1, attribute(2, uint(4, 9))))]),
    ],
  ])("described with %s is a decode error, and is not remembered", async (_what, body) => {
    let isBroken = true;
    const fake = createFakeTransport((request, kernel) => {
      const attributes = isBroken ? body : familyAttributes("nbd", 28, {});
      kernel.deliver(generic({ type: 16, sequence: sequenceOf(request) }, 1, attributes));
      kernel.deliver(ack(request));
    });
    const netlink = new GenericNetlink({ openTransport: () => fake });
    await expect(netlink.family("nbd")).rejects.toMatchObject({
      code: "ERR_NETLINK_DECODE",
      command: "GETFAMILY",
    });
    isBroken = false;
    await expect(netlink.family("nbd")).resolves.toMatchObject({ id: 28 });
    await netlink.close();
  });

  test("families lists all of them", async () => {
    const netlink = client(createFakeFamilies());
    expect((await netlink.families()).map(({ name, id }) => `${name} ${id}`)).toEqual([
      "nlctrl 16",
      "nbd 28",
    ]);
    await netlink.close();
  });
});

describe("request", () => {
  test("goes to the family's id, with command, version and attributes", async () => {
    const fake = createFakeFamilies((request, kernel) => {
      kernel.deliver(generic({ type: 28, sequence: sequenceOf(request) }, 5, attribute(1, uint(4, 3))));
      kernel.deliver(ack(request));
    });
    const netlink = client(fake);
    const { messages } = await netlink.request({ ...status, attributes: [u32(1, 3)] });
    expect(messages).toMatchObject([{ command: 5, version: 1, attributes: [{ type: 1 }] }]);
    const sent = Buffer.from(fake.transports[0]?.sent[1] ?? []);
    expect(readRequest(sent)).toMatchObject({ type: 28, flags: 5, command: 5 });
    expect(sent.subarray(16).toString("hex")).toBe("05010000" + "0800010003000000");
    await netlink.close();
  });

  test("finds the family again after its module was reloaded, and sends once more", async () => {
    const fake = createFakeFamilies();
    const netlink = client(fake);
    await netlink.request(status);
    fake.families.set("nbd", { id: 29, groups: {} });
    await netlink.request(status);
    await netlink.request(status);
    expect(fake.lookUps).toEqual(["nbd", "nbd"]);
    const types = fake.transports[0]?.sent.map((request) => readRequest(request).type);
    expect(types).toEqual([16, 28, 28, 16, 29, 29]);
    await netlink.close();
  });

  test("reports the missing family when the module is gone for good", async () => {
    const fake = createFakeFamilies();
    const netlink = client(fake);
    await netlink.request(status);
    fake.families.delete("nbd");
    await expect(netlink.request(status)).rejects.toMatchObject({ code: "ERR_NETLINK_NO_FAMILY" });
    await netlink.close();
  });

  test.each([ENOENT, EOPNOTSUPP])(
    "errno %i with an unchanged id is the family's own answer: no second try",
    async (errno) => {
      let count = 0;
      const fake = createFakeFamilies((request, kernel) => {
        count += 1;
        kernel.deliver(ack(request, { errno }));
      });
      const netlink = client(fake);
      await expect(netlink.request(status)).rejects.toMatchObject({ code: "ERR_NETLINK_REFUSED", errno });
      expect(count).toBe(1);
      await netlink.close();
    },
  );

  test("any other refusal is passed on without a look-up", async () => {
    const fake = createFakeFamilies((request, kernel) => kernel.deliver(ack(request, { errno: EINVAL })));
    const netlink = client(fake);
    await expect(netlink.request({ ...status, purpose: "poke nbd3", deviceIndex: 3 })).rejects.toMatchObject({
      errno: EINVAL,
      deviceIndex: 3,
      message: "cannot poke nbd3: EINVAL (22) from STATUS, no kernel message",
    });
    expect(fake.lookUps).toEqual(["nbd"]);
    await netlink.close();
  });

  test("names the attribute that was missing or rejected", async () => {
    const tlvs: Buffer[] = [];
    const fake = createFakeFamilies((request, kernel) =>
      kernel.deliver(ack(request, { errno: EINVAL, tlvs })),
    );
    const netlink = client(fake);
    const attributes = [u32(1, 3), { type: 4, payload: Uint8Array.of(1) }];
    tlvs.push(attribute(5, uint(4, 7)));
    await expect(netlink.request({ ...status, attributes })).rejects.toMatchObject({
      kernelAttribute: "NBD_ATTR_SOCKETS",
      kernelAttributeProblem: "missing",
      message:
        "cannot run STATUS: EINVAL (22) from STATUS, no kernel message, attribute NBD_ATTR_SOCKETS missing",
    });
    tlvs.splice(0, 1, attribute(1, text("bad")), attribute(2, uint(4, 28)));
    await expect(netlink.request({ ...status, attributes })).rejects.toMatchObject({
      kernelAttribute: "NBD_ATTR_TIMEOUT",
      kernelAttributeProblem: "rejected",
      message:
        "cannot run STATUS: EINVAL (22) from STATUS, the kernel says 'bad', attribute NBD_ATTR_TIMEOUT rejected",
    });
    tlvs.splice(0, 2, attribute(2, uint(4, 9999)));
    await expect(netlink.request({ ...status, attributes })).rejects.toMatchObject({
      kernelAttribute: undefined,
    });
    tlvs.splice(0, 1, attribute(5, uint(4, 1)), attribute(6, uint(4, 20)));
    await expect(netlink.request({ ...status, attributes })).rejects.toMatchObject({
      kernelAttribute: "NBD_ATTR_INDEX.attribute 1",
      kernelAttributeProblem: "missing",
    });
    await netlink.close();
  });

  test("turns an answer that is no generic message into a decode error", async () => {
    const fake = createFakeFamilies((request, kernel) => {
      const short = Buffer.concat([
        uint(4, 18),
        uint(2, 28),
        uint(2, 0),
        uint(4, sequenceOf(request)),
        uint(4, 4711),
        Buffer.alloc(4),
      ]);
      kernel.deliver(short);
      kernel.deliver(ack(request));
    });
    const netlink = client(fake);
    await expect(netlink.request(status)).rejects.toMatchObject({
      code: "ERR_NETLINK_DECODE",
      command: "STATUS",
    });
    await netlink.close();
  });
});

describe("dumps", () => {
  const dump = { ...status, dump: true };

  test("that were interrupted are asked for again", async () => {
    let count = 0;
    const fake = createFakeFamilies((request, kernel) => {
      count += 1;
      kernel.deliver(generic({ type: 28, flags: count < 3 ? 0x12 : 2, sequence: sequenceOf(request) }, 5));
      kernel.deliver(done(request));
    });
    const netlink = client(fake);
    expect((await netlink.request(dump)).messages).toHaveLength(1);
    expect(count).toBe(3);
    await netlink.close();
  });

  test("that are interrupted each time fail after five attempts", async () => {
    let count = 0;
    const fake = createFakeFamilies((request, kernel) => {
      count += 1;
      kernel.deliver(done(request, 0, 0x10));
    });
    const netlink = client(fake);
    await expect(netlink.request(dump)).rejects.toMatchObject({ code: "ERR_NETLINK_DUMP_INTERRUPTED" });
    expect(count).toBe(5);
    await netlink.close();
  });
});
