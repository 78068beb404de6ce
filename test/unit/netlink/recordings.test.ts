/**
 * The clients against bytes recorded from Linux 6.1, 6.12 and 7.2 (test/fixtures/netlink/): answers decode to the
 * values here, and requests are the bytes that those kernels accepted.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { refusal } from "../../../netlink/client/request.ts";
import {
  type Attribute,
  createFakeTransport,
  decodeFamily,
  decodeGenericMessage,
  decodeMessages,
  decodeVerdict,
  type FakeTransport,
  GenericNetlink,
  NBD_SCHEMA,
  type NbdEvent,
  NbdNetlink,
  nested,
  u8,
  u32,
  u64,
} from "../../../netlink/index.ts";
import { sequenceOf } from "./encode.ts";

interface Recording {
  readonly kernel: string;
  readonly exchanges: readonly {
    readonly name: string;
    readonly datagrams: readonly { readonly to: "kernel" | "user"; readonly hex: string }[];
  }[];
  readonly events: readonly string[];
}

function load(series: string): Recording {
  const file = new URL(`../../fixtures/netlink/kernel-${series}.json`, import.meta.url);
  return JSON.parse(readFileSync(file, "utf8"));
}

function exchange(recording: Recording, name: string): Recording["exchanges"][number] {
  const found = recording.exchanges.find((each) => each.name === name);
  if (found === undefined) throw new Error(`no exchange '${name}' in the recording of ${recording.kernel}`);
  return found;
}

/** Gives every message of a recorded datagram another sequence number and port. */
function readdressed(hex: string, sequence: number, portId: number): Buffer {
  const bytes = Buffer.from(hex, "hex");
  for (let at = 0; at < bytes.length; at += Math.ceil(bytes.readUInt32LE(at) / 4) * 4) {
    bytes.writeUInt32LE(sequence, at + 8);
    bytes.writeUInt32LE(portId, at + 12);
  }
  return bytes;
}

/** Plays the kernel's side of an exchange; the requests are compared with the recorded ones, byte for byte. */
function replay(recording: Recording, ...names: readonly string[]): FakeTransport {
  const script = names.flatMap((name) => exchange(recording, name).datagrams);
  const transport = createFakeTransport((request, kernel) => {
    const recorded = script.shift();
    expect(recorded?.to).toBe("kernel");
    const expected = readdressed(recorded?.hex ?? "", sequenceOf(request), transport.portId);
    expect(Buffer.from(request).toString("hex")).toBe(expected.toString("hex"));
    while (script[0]?.to === "user") {
      kernel.deliver(readdressed(script.shift()?.hex ?? "", sequenceOf(request), transport.portId));
    }
  });
  return transport;
}

/** The fds that were passed while recording, read from the request itself: they are the recording process's numbers. */
function recordedFds(recording: Recording, name: string): number[] {
  const [request] = decodeMessages(Buffer.from(exchange(recording, name).datagrams[0]?.hex ?? "", "hex"));
  const { attributes } = decodeGenericMessage(request?.payload ?? new Uint8Array());
  const sockets = Buffer.from(attributes.at(-1)?.payload ?? []);
  return Array.from({ length: sockets.length / 12 }, (_, position) =>
    sockets.readUInt32LE(position * 12 + 8),
  );
}

const settings = {
  sizeBytes: 1_048_576,
  blockSizeBytes: 4096,
  timeoutSeconds: 0,
  deadConnectionTimeoutSeconds: 60,
  serverFlags: 0x103,
  clientFlags: 0,
  backendIdentifier: "capture-1",
};

const KERNELS = [
  { series: "6.1", familyId: 26, groupId: 3, namesMissing: false },
  { series: "6.12", familyId: 28, groupId: 7, namesMissing: true },
  { series: "7.2", familyId: 30, groupId: 8, namesMissing: true },
] as const;

describe.each(KERNELS)("recorded from Linux $series", ({ series, familyId, groupId, namesMissing }) => {
  const recording = load(series);

  test("the recording names its kernel", () => {
    expect(recording.kernel.startsWith(`${series}.`)).toBe(true);
  });

  test("family look-up", async () => {
    const names = ["look up nbd", "look up a family that does not exist", "list families"];
    const transport = replay(recording, ...names);
    const netlink = new GenericNetlink({ openTransport: () => transport });
    expect(await netlink.family("nbd")).toEqual({
      name: "nbd",
      id: familyId,
      version: 1,
      headerSizeBytes: 0,
      maximumAttribute: 10,
      groups: [{ name: "nbd_mc_group", id: groupId }],
    });
    await expect(netlink.family("no_such")).rejects.toMatchObject({
      code: "ERR_NETLINK_NO_FAMILY",
      errnoName: "ENOENT",
    });
    const families = (await netlink.families()).map(({ name, id }) => `${name} ${id}`);
    expect(families[0]).toBe("nlctrl 16");
    expect(families).toContain(`nbd ${familyId}`);
    expect(new Set(families).size).toBe(families.length);
    await netlink.close();
  });

  test("the nbd commands and their answers", async () => {
    const transport = replay(
      recording,
      "look up nbd",
      "status of an unknown index",
      "connect with two sockets",
      "status of all",
      "status of one",
      "connect a busy index",
      "reconfigure with another identifier",
      "reconfigure with a socket",
      "disconnect",
      "disconnect an unknown index",
    );
    const nbd = new NbdNetlink({ openTransport: () => transport });
    expect(await nbd.status(4000)).toEqual([]);
    const sockets = recordedFds(recording, "connect with two sockets");
    expect(sockets).toHaveLength(2);
    expect(await nbd.connect({ ...settings, sockets })).toEqual({ index: 0 });
    const all = Array.from({ length: 16 }, (_, index) => ({ index, connected: index === 0 }));
    expect(await nbd.status()).toEqual(all);
    expect(await nbd.status(0)).toEqual([{ index: 0, connected: true }]);
    const spare = recordedFds(recording, "connect a busy index");
    await expect(nbd.connect({ ...settings, index: 0, sockets: spare })).rejects.toThrow(
      "cannot connect nbd0: EBUSY (16) from CONNECT, no kernel message",
    );
    await expect(nbd.reconfigure({ index: 0, backendIdentifier: "other" })).rejects.toThrow(
      "cannot reconfigure nbd0: EINVAL (22) from RECONFIGURE, no kernel message",
    );
    await nbd.reconfigure({ index: 0, backendIdentifier: "capture-1", sockets: spare });
    await nbd.disconnect(0);
    await expect(nbd.disconnect(4000)).rejects.toThrow(
      "cannot disconnect nbd4000: EINVAL (22) from DISCONNECT, no kernel message",
    );
    await nbd.close();
  });

  const tooShortSize = [u32(1, 9), u32(2, 4096)];
  const tooShortFd = [u64(2, 4096), nested(7, [nested(1, [u8(1, 1)])])];
  const policy = { kernelMessage: "Attribute failed policy validation", kernelAttributeProblem: "rejected" };
  const missing = (name: string): object => ({
    errnoName: "EINVAL",
    kernelMessage: undefined,
    kernelAttribute: namesMissing ? name : undefined,
    kernelAttributeProblem: namesMissing ? "missing" : undefined,
  });
  const refusals: readonly (readonly [string, number, Attribute[], object])[] = [
    ["connect without sockets", 1, [u64(2, 4096)], missing("NBD_ATTR_SOCKETS")],
    ["connect without size", 1, [nested(7, [])], missing("NBD_ATTR_SIZE_BYTES")],
    ["disconnect without index", 2, [], missing("NBD_ATTR_INDEX")],
    [
      "connect with a size that is too short",
      1,
      tooShortSize,
      { ...policy, errnoName: "ERANGE", kernelAttribute: "NBD_ATTR_SIZE_BYTES" },
    ],
    [
      "connect with a descriptor that is too short",
      1,
      tooShortFd,
      { ...policy, errnoName: "EINVAL", kernelAttribute: "NBD_ATTR_SOCKETS.NBD_SOCK_ITEM.NBD_SOCK_FD" },
    ],
  ];

  test.each(refusals)("refusal: %s", async (name, command, attributes, expected) => {
    const transport = replay(recording, "look up nbd", name);
    const netlink = new GenericNetlink({ openTransport: () => transport });
    const attempt = netlink.request({ schema: NBD_SCHEMA, command, attributes });
    await expect(attempt).rejects.toMatchObject({ code: "ERR_NETLINK_REFUSED", ...expected });
    await netlink.close();
  });

  test("a dump that the family does not have, which costs one more look-up", async () => {
    const transport = replay(recording, "look up nbd", "status as a dump");
    const netlink = new GenericNetlink({ openTransport: () => transport });
    const attempt = netlink.request({ schema: NBD_SCHEMA, command: 5, attributes: [], dump: true });
    await expect(attempt).rejects.toMatchObject({ errnoName: "EOPNOTSUPP" });
    await netlink.close();
  });

  test("a request that needs a new look-up after the module was reloaded", async () => {
    const transport = replay(recording, "look up nbd", "status with the id of before the reload");
    const nbd = new NbdNetlink({ openTransport: () => transport });
    expect(await nbd.status(0)).toEqual([{ index: 0, connected: false }]);
    expect(transport.sent).toHaveLength(4);
    await nbd.close();
  });

  test.each([
    ["uncapped: connect without size", missing("NBD_ATTR_SIZE_BYTES")],
    ["uncapped: size too short", { ...policy, errnoName: "ERANGE", kernelAttribute: "NBD_ATTR_SIZE_BYTES" }],
    ["uncapped: disconnect an unknown index", { errnoName: "EINVAL", kernelAttribute: undefined }],
  ])("acknowledgement that repeats the request: %s", (name, expected) => {
    const [request, answer] = exchange(recording, name).datagrams.map(({ hex }) => Buffer.from(hex, "hex"));
    const [message] = decodeMessages(answer ?? Buffer.alloc(0));
    if (message === undefined || request === undefined) throw new Error("incomplete recording");
    expect(message.flags & 0x100).toBe(0);
    expect(message.payload.length).toBeGreaterThanOrEqual(4 + request.length);
    const label = { purpose: "test", command: "TEST", schema: NBD_SCHEMA };
    const error = refusal(label, decodeVerdict(message), { bytes: request, sequence: 77 });
    expect(error).toMatchObject(expected);
  });

  test("events: a dead link, then the family leaves and comes back with other numbers", () => {
    const decoded = recording.events.flatMap((hex) =>
      decodeMessages(Buffer.from(hex, "hex")).map(({ type, payload }) => {
        const message = decodeGenericMessage(payload);
        return { type, command: message.command, message };
      }),
    );
    const [linkDead, ...changes] = decoded;
    expect(linkDead).toMatchObject({ type: familyId, command: 4 });
    expect(changes.every(({ type }) => type === 16)).toBe(true);
    const families = changes
      .filter(({ command }) => command === 1 || command === 2)
      .map(({ command, message }) => [command, decodeFamily(message.attributes).name]);
    expect(families).toEqual([
      [2, "nbd"],
      [1, "nbd"],
    ]);
    const returned = changes.find(({ command }) => command === 1);
    expect(decodeFamily(returned?.message.attributes ?? []).id).not.toBe(familyId);
  });

  test("events through the client", async () => {
    const heard: NbdEvent[] = [];
    const transport = createFakeTransport((request, kernel) => {
      const isController = Buffer.from(request).subarray(24, 30).toString() === "nlctrl";
      const list = exchange(recording, "list families").datagrams.filter(({ to }) => to === "user");
      const answer = isController ? list[0] : exchange(recording, "look up nbd").datagrams[1];
      const first = Buffer.from(answer?.hex ?? "", "hex");
      const message = first.subarray(0, first.readUInt32LE(0));
      message.writeUInt16LE(0, 6);
      kernel.deliver(readdressed(message.toString("hex"), sequenceOf(request), transport.portId));
      const done = exchange(recording, "disconnect").datagrams[1];
      kernel.deliver(readdressed(done?.hex ?? "", sequenceOf(request), transport.portId));
    });
    const events = createFakeTransport(() => undefined);
    const transports = [transport, events];
    const nbd = new NbdNetlink({ openTransport: () => transports.shift() ?? events });
    await nbd.linkDeadEvents((event) => heard.push(event));
    expect(events.joinedGroups).toEqual([16, groupId]);
    for (const hex of recording.events) events.deliver(Buffer.from(hex, "hex"));
    for (let turn = 0; heard.length < 3 && turn < 1000; turn += 1) await new Promise(setImmediate);
    expect(heard).toEqual([
      { type: "link-dead", index: 0 },
      { type: "resync", reason: "family-removed", error: undefined },
      { type: "resync", reason: "family-reloaded", error: undefined },
    ]);
    expect(events.joinedGroups).toHaveLength(3);
    await nbd.close();
  });
});
