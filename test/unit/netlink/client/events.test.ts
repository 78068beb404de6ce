/** events.ts over a fake kernel: messages, losses, reloads, broken data, listeners that throw, close. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import {
  type FakeTransport,
  GenericNetlink,
  type GroupSubscription,
  NBD_SCHEMA,
  type SubscriptionOptions,
} from "../../../../netlink/index.ts";
import { attribute, generic, message, uint } from "../encode.ts";
import { createFakeFamilies, type FakeFamilies } from "../fake-families.ts";

const { ENOBUFS, EINTR } = constants.errno;
const NEWFAMILY = 1;
const DELFAMILY = 2;

interface Listening {
  readonly fake: FakeFamilies;
  readonly netlink: GenericNetlink;
  readonly subscription: GroupSubscription;
  /** The transport of the subscription. */
  readonly events: FakeTransport;
  readonly heard: string[];
  /** Waits until so many things were heard. */
  readonly until: (count: number) => Promise<string[]>;
}

async function listen(options: Partial<SubscriptionOptions> = {}): Promise<Listening> {
  const fake = createFakeFamilies();
  const netlink = new GenericNetlink({ openTransport: fake.openTransport });
  const heard: string[] = [];
  const subscription = await netlink.subscribe({
    schema: NBD_SCHEMA,
    groupName: "nbd_mc_group",
    onMessage: ({ command, attributes }) => heard.push(`message ${command} ${attributes.length}`),
    onResync: (reason, error) => heard.push(error === undefined ? reason : `${reason}: ${error.message}`),
    ...options,
  });
  const events = fake.transports[1];
  if (events === undefined) throw new Error("the subscription opened no transport");
  const until = async (count: number): Promise<string[]> => {
    for (let turn = 0; heard.length < count && turn < 1000; turn += 1) await new Promise(setImmediate);
    return heard;
  };
  return { fake, netlink, subscription, events, heard, until };
}

const linkDead = (index: number, familyId = 28): Buffer =>
  generic({ type: familyId, sequence: 0, portId: 0 }, 4, attribute(1, uint(4, index)));

describe("a subscription", () => {
  test("joins the controller's group first, then the family's, on a socket of its own", async () => {
    const { netlink, events, fake, subscription } = await listen();
    expect(events.joinedGroups).toEqual([16, 7]);
    expect(events.sent).toEqual([]);
    expect(fake.transports).toHaveLength(2);
    expect(subscription.receiveBufferBytes).toBe(4 * 1024 * 1024);
    await netlink.close();
    expect(fake.transports.map(({ isClosed }) => isClosed)).toEqual([true, true]);
    expect(events.watchCount).toBe(0);
  });

  test("requests the given receive buffer", async () => {
    const { netlink, subscription } = await listen({ receiveBufferBytes: 65_536 });
    expect(subscription.receiveBufferBytes).toBe(65_536);
    await netlink.close();
  });

  test("delivers messages in order, several in a datagram, more than a batch in all", async () => {
    const { netlink, events, until } = await listen();
    events.deliver(Buffer.concat([linkDead(1), linkDead(2)]));
    for (let count = 0; count < 200; count += 1) events.deliver(linkDead(3));
    expect(await until(202)).toEqual(Array.from({ length: 202 }, () => "message 4 1"));
    await netlink.close();
  });

  test("accepts messages of the kernel only, and only of the family it listens to", async () => {
    const { netlink, events, fake, until } = await listen();
    events.deliver(linkDead(1), { senderPortId: 99 });
    events.deliver(linkDead(1, 33));
    fake.announce(events, NEWFAMILY, "other", { id: 40, groups: {} });
    fake.announce(events, DELFAMILY, "other", { id: 40, groups: {} });
    events.deliver(linkDead(2));
    expect(await until(1)).toEqual(["message 4 1"]);
    await netlink.close();
  });

  test("reports that messages were lost and goes on", async () => {
    const { netlink, events, until } = await listen();
    events.failReceive(ENOBUFS);
    events.deliver(linkDead(1));
    events.deliver(linkDead(1), { truncated: true });
    events.failReceive(EINTR);
    events.deliver(linkDead(2));
    expect(await until(4)).toEqual(["messages-lost", "message 4 1", "messages-lost", "message 4 1"]);
    await netlink.close();
  });

  test("reports what it could not decode and goes on", async () => {
    const { netlink, events, until } = await listen();
    events.deliver(Buffer.from([1, 2, 3]));
    events.deliver(message({ type: 28, sequence: 0 }, Buffer.from([4])));
    events.deliver(linkDead(2));
    expect(await until(3)).toEqual([
      expect.stringMatching(
        /^undecodable: cannot listen to nbd events: the kernel's answer cannot be decoded/,
      ),
      expect.stringMatching(/^undecodable: /),
      "message 4 1",
    ]);
    await netlink.close();
  });
});

test("a receive that fails permanently ends the subscription, which reports it", async () => {
  const { netlink, events, until } = await listen();
  events.failReceive(constants.errno.EBADF);
  events.deliver(linkDead(1));
  expect(await until(1)).toEqual([
    "ended: cannot listen to nbd events: could not receive from the netlink socket: EBADF (9)",
  ]);
  await netlink.close();
  expect(events).toMatchObject({ isClosed: true, watchCount: 0 });
});

describe("a module reload", () => {
  test("is noticed: the family's new group is joined, its new id used, the client's cache dropped", async () => {
    const { netlink, events, fake, until } = await listen();
    fake.families.delete("nbd");
    fake.announce(events, DELFAMILY, "nbd", { id: 28, groups: {} });
    expect(await until(1)).toEqual(["family-removed"]);
    const reloaded = { id: 30, groups: { nbd_mc_group: 9 } };
    fake.families.set("nbd", reloaded);
    fake.announce(events, NEWFAMILY, "nbd", reloaded);
    await until(2);
    events.deliver(linkDead(1, 28));
    events.deliver(linkDead(1, 30));
    expect(await until(3)).toEqual(["family-removed", "family-reloaded", "message 4 1"]);
    expect(events.joinedGroups).toEqual([16, 7, 9]);
    expect(await netlink.family("nbd")).toMatchObject({ id: 30 });
    await netlink.close();
  });

  test("without the group: the listener gets the reason why no more events arrive", async () => {
    const { netlink, events, fake, until } = await listen();
    fake.announce(events, NEWFAMILY, "nbd", { id: 30, groups: {} });
    expect(await until(1)).toEqual([
      "join-failed: cannot listen to nbd events: the family nbd has no group 'nbd_mc_group'",
    ]);
    await netlink.close();
  });
});

describe("subscribing fails", () => {
  test.each([
    ["family", undefined, "ERR_NETLINK_NO_FAMILY"],
    ["group", { id: 28, groups: { other: 3 } }, "ERR_NETLINK_NO_FAMILY"],
  ])("when there is no such %s, and leaves nothing open", async (_what, family, code) => {
    const fake = createFakeFamilies();
    if (family === undefined) fake.families.delete("nbd");
    else fake.families.set("nbd", family);
    const netlink = new GenericNetlink({ openTransport: fake.openTransport });
    const attempt = netlink.subscribe({
      schema: NBD_SCHEMA,
      groupName: "nbd_mc_group",
      onMessage: () => undefined,
      onResync: () => undefined,
    });
    await expect(attempt).rejects.toMatchObject({ code });
    expect(fake.transports[1]?.isClosed).toBe(true);
    expect(fake.transports[1]?.watchCount).toBe(0);
    await netlink.close();
  });

  test("when the client is closed", async () => {
    const { netlink } = await listen();
    await netlink.close();
    const attempt = netlink.subscribe({
      schema: NBD_SCHEMA,
      groupName: "nbd_mc_group",
      onMessage: () => undefined,
      onResync: () => undefined,
    });
    await expect(attempt).rejects.toMatchObject({ code: "ERR_NETLINK_CLOSED" });
  });
});

describe("close", () => {
  test("stops at once, even from within a listener, and may be called twice", async () => {
    const heard: string[] = [];
    const holder: { subscription?: GroupSubscription } = {};
    const { netlink, events, subscription } = await listen({
      onMessage: () => {
        heard.push("message");
        void holder.subscription?.close();
      },
    });
    holder.subscription = subscription;
    events.deliver(Buffer.concat([linkDead(1), linkDead(2)]));
    events.deliver(linkDead(3));
    for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
    expect(heard).toEqual(["message"]);
    await subscription.close();
    expect(events.isClosed).toBe(true);
    await netlink.close();
  });
});

test("a listener that throws surfaces as an uncaught exception and does not stop the reading", async () => {
  const heard: number[] = [];
  const uncaught: unknown[] = [];
  const others = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  const collect = (error: unknown): void => {
    uncaught.push(error);
  };
  process.on("uncaughtException", collect);
  try {
    const { netlink, events } = await listen({
      onMessage: () => {
        heard.push(heard.length);
        if (heard.length === 1) throw new Error("listener broke");
      },
    });
    events.deliver(linkDead(1));
    events.deliver(linkDead(2));
    for (let turn = 0; heard.length < 2 && turn < 1000; turn += 1) await new Promise(setImmediate);
    expect(heard).toHaveLength(2);
    expect(uncaught).toMatchObject([{ message: "listener broke" }]);
    await netlink.close();
  } finally {
    process.off("uncaughtException", collect);
    for (const other of others) process.on("uncaughtException", other);
  }
});
