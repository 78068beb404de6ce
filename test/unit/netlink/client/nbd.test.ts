/** nbd.ts: the bytes of each command, its decoded answers, events. Real bytes: see recordings.test.ts. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { type NbdEvent, NbdNetlink } from "../../../../netlink/index.ts";
import { ack, attribute, generic, sequenceOf, text, uint } from "../encode.ts";
import { createFakeFamilies, type FakeFamilies, type Handler } from "../fake-families.ts";

const { EBUSY, EINVAL, EPERM } = constants.errno;

function open(handler?: Handler): { fake: FakeFamilies; nbd: NbdNetlink; body: () => string } {
  const fake = createFakeFamilies(handler);
  const nbd = new NbdNetlink({ openTransport: fake.openTransport });
  const body = (): string =>
    Buffer.from(fake.transports[0]?.sent.at(-1) ?? [])
      .subarray(16)
      .toString("hex");
  return { fake, nbd, body };
}

const answering =
  (command: number, ...attributes: readonly Buffer[]): Handler =>
  (request, kernel) => {
    kernel.deliver(generic({ type: 28, sequence: sequenceOf(request) }, command, ...attributes));
    kernel.deliver(ack(request));
  };

const settings = {
  sizeBytes: 2 ** 40,
  blockSizeBytes: 4096,
  timeoutSeconds: 0,
  deadConnectionTimeoutSeconds: 86_400,
  serverFlags: 0x103,
  clientFlags: 2,
  sockets: [5, 6],
  backendIdentifier: "uuid-1",
};

const socketItems = attribute(
  7 | 0x8000,
  attribute(1 | 0x8000, attribute(1, uint(4, 5))),
  attribute(1 | 0x8000, attribute(1, uint(4, 6))),
);

describe("connect", () => {
  const attributes = Buffer.concat([
    attribute(2, uint(8, 2 ** 40)),
    attribute(3, uint(8, 4096)),
    attribute(4, uint(8, 0)),
    attribute(8, uint(8, 86_400)),
    attribute(5, uint(8, 0x103)),
    attribute(6, uint(8, 2)),
    attribute(10, text("uuid-1")),
    socketItems,
  ]).toString("hex");

  test("sends every attribute, zero or not, and returns the kernel's choice", async () => {
    const { nbd, body } = open(answering(1, attribute(1, uint(4, 7))));
    expect(await nbd.connect(settings)).toEqual({ index: 7 });
    expect(body()).toBe(`01010000${attributes}`);
    await nbd.close();
  });

  test("names the index when it is given one, 0 included", async () => {
    const { nbd, body } = open(answering(1, attribute(1, uint(4, 0))));
    expect(await nbd.connect({ ...settings, index: 0 })).toEqual({ index: 0 });
    expect(body()).toBe(`01010000${attribute(1, uint(4, 0)).toString("hex")}${attributes}`);
    await nbd.close();
  });

  test("does not succeed without an index in the answer", async () => {
    const { nbd } = open(answering(1));
    await expect(nbd.connect(settings)).rejects.toMatchObject({
      code: "ERR_NETLINK_DECODE",
      command: "CONNECT",
      message: expect.stringContaining("NBD_ATTR_INDEX is missing"),
    });
    await nbd.close();
  });

  test.each([
    [{ index: 3 }, "cannot connect nbd3: EBUSY (16) from CONNECT, no kernel message", 3],
    [{}, "cannot connect an nbd device: EBUSY (16) from CONNECT, no kernel message", undefined],
  ])("reports a refusal with device and hint", async (extra, text_, deviceIndex) => {
    const { nbd } = open((request, kernel) => kernel.deliver(ack(request, { errno: EBUSY })));
    await expect(nbd.connect({ ...settings, ...extra })).rejects.toMatchObject({
      message: text_,
      deviceIndex,
      hint: expect.stringContaining("choose another index"),
    });
    await nbd.close();
  });
});

describe("reconfigure", () => {
  test("sends the identifier always and nothing else that was not given", async () => {
    const { nbd, body } = open();
    await nbd.reconfigure({ index: 3, backendIdentifier: "uuid-1" });
    const head = Buffer.concat([attribute(1, uint(4, 3)), attribute(10, text("uuid-1"))]).toString("hex");
    expect(body()).toBe(`03010000${head}`);
    await nbd.reconfigure({ index: 3, ...settings });
    const rest = Buffer.concat([
      attribute(2, uint(8, 2 ** 40)),
      attribute(3, uint(8, 4096)),
      attribute(4, uint(8, 0)),
      attribute(8, uint(8, 86_400)),
      attribute(6, uint(8, 2)),
      socketItems,
    ]);
    expect(body()).toBe(`03010000${head}${rest.toString("hex")}`);
    await nbd.close();
  });

  test("reports a refusal with device and hint", async () => {
    const { nbd } = open((request, kernel) => kernel.deliver(ack(request, { errno: EINVAL })));
    await expect(nbd.reconfigure({ index: 3, backendIdentifier: "other" })).rejects.toMatchObject({
      message: "cannot reconfigure nbd3: EINVAL (22) from RECONFIGURE, no kernel message",
      deviceIndex: 3,
      hint: expect.stringContaining("backend identifier"),
    });
    await nbd.close();
  });
});

describe("disconnect", () => {
  test("sends the index", async () => {
    const { nbd, body } = open();
    await nbd.disconnect(3);
    expect(body()).toBe(`02010000${attribute(1, uint(4, 3)).toString("hex")}`);
    await nbd.close();
  });

  test("reports a refusal with device and hint", async () => {
    const { nbd } = open((request, kernel) => kernel.deliver(ack(request, { errno: EPERM })));
    await expect(nbd.disconnect(3)).rejects.toMatchObject({
      message: "cannot disconnect nbd3: EPERM (1) from DISCONNECT, no kernel message",
      hint: expect.stringContaining("CAP_SYS_ADMIN"),
    });
    await nbd.close();
  });
});

describe("status", () => {
  const item = (...fields: readonly Buffer[]): Buffer => attribute(1 | 0x8000, ...fields);
  const index = (value: number): Buffer => attribute(1, uint(4, value));
  const connected = (value: number): Buffer => attribute(2, uint(1, value));

  test("lists devices, and sends an index only when asked for one", async () => {
    const list = attribute(9, item(index(0), connected(1)), item(connected(0), index(1)));
    const { nbd, body } = open(answering(5, list));
    expect(await nbd.status()).toEqual([
      { index: 0, connected: true },
      { index: 1, connected: false },
    ]);
    expect(body()).toBe("05010000");
    await nbd.status(0);
    expect(body()).toBe(`05010000${attribute(1, uint(4, 0)).toString("hex")}`);
    await nbd.close();
  });

  test.each([
    ["an empty list", [attribute(9)]],
    ["no list", []],
  ])("%s is no device", async (_what, attributes) => {
    const { nbd } = open(answering(5, ...attributes));
    expect(await nbd.status(9)).toEqual([]);
    await nbd.close();
  });

  test.each([
    ["without an index", [connected(1)]],
    ["without a state", [index(1)]],
    ["with an index of one byte", [attribute(1, uint(1, 1)), connected(1)]],
  ])("an item %s is a decode error", async (_what, fields) => {
    const { nbd } = open(answering(5, attribute(9, item(...fields))));
    await expect(nbd.status()).rejects.toMatchObject({ code: "ERR_NETLINK_DECODE", command: "STATUS" });
    await nbd.close();
  });
});

describe("linkDeadEvents", () => {
  test("reports the device, skips other commands, and asks for a resync if the index is missing", async () => {
    const { nbd, fake } = open();
    const heard: NbdEvent[] = [];
    const subscription = await nbd.linkDeadEvents((event) => heard.push(event));
    const [, events] = fake.transports;
    const fields = { type: 28, sequence: 0, portId: 0 };
    events?.deliver(generic(fields, 4, attribute(1, uint(4, 3))));
    events?.deliver(generic(fields, 5, attribute(1, uint(4, 3))));
    events?.deliver(generic(fields, 4));
    events?.failReceive(constants.errno.ENOBUFS);
    for (let turn = 0; heard.length < 3 && turn < 1000; turn += 1) await new Promise(setImmediate);
    expect(heard).toEqual([
      { type: "link-dead", index: 3 },
      { type: "resync", reason: "undecodable", error: expect.objectContaining({ name: "DecodeError" }) },
      { type: "resync", reason: "messages-lost", error: undefined },
    ]);
    await subscription.close();
    expect(events?.isClosed).toBe(true);
    await nbd.close();
  });
});
