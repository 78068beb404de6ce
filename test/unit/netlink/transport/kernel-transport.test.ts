/**
 * kernel-transport.ts and libc.ts on this machine's own kernel. The controller family needs no privilege.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { GenericNetlink, openKernelTransport, SyscallError } from "../../../../netlink/index.ts";
import * as libc from "../../../../netlink/transport/libc.ts";
import { attribute, generic, readRequest, text } from "../encode.ts";

const getController = generic(
  { type: 16, flags: 5, sequence: 99, portId: 0 },
  3,
  attribute(2, text("nlctrl")),
);

function netlinkFds(): string[] {
  return readdirSync("/proc/self/fd").filter((fd) => {
    const link = `/proc/self/fd/${fd}`;
    return existsSync(link) && readlinkSync(link).startsWith("socket:");
  });
}

describe("openKernelTransport", () => {
  test("is close-on-exec and non-blocking, and close gives the descriptor back", () => {
    const before = new Set(netlinkFds());
    const transport = openKernelTransport();
    const [fd] = netlinkFds().filter((each) => !before.has(each));
    const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
    expect(Number.parseInt(flags, 8) & 0o2000000).toBe(0o2000000);
    expect(Number.parseInt(flags, 8) & 0o4000).toBe(0o4000);
    expect(transport.portId).toBeGreaterThan(0);
    transport.close();
    expect(netlinkFds().filter((each) => !before.has(each))).toEqual([]);
  });

  test("returns undefined when nothing is there, on and off the loop", async () => {
    const transport = openKernelTransport();
    expect(transport.receive()).toBeUndefined();
    await expect(transport.receiveOffLoop()).resolves.toBeUndefined();
    transport.close();
  });

  test("has the answer in its queue when send returns, from the kernel and whole", async () => {
    const transport = openKernelTransport();
    await transport.send(getController);
    const answer = transport.receive();
    expect(answer).toMatchObject({ senderPortId: 0, truncated: false });
    expect(readRequest(answer?.bytes ?? Buffer.alloc(20))).toMatchObject({
      type: 16,
      sequence: 99,
      command: 1,
    });
    expect(readRequest(transport.receive()?.bytes ?? Buffer.alloc(20)).type).toBe(2);
    expect(transport.receive()).toBeUndefined();
    transport.close();
  });

  test("watches: calls back while there is a datagram, not after stop", async () => {
    const transport = openKernelTransport();
    let calls = 0;
    const seen = new Promise<void>((resolve) => {
      const watch = transport.watch(() => {
        calls += 1;
        watch.stop();
        watch.stop();
        resolve();
      }, true);
    });
    await transport.send(getController);
    await seen;
    await new Promise(setImmediate);
    expect(calls).toBe(1);
    transport.close();
  });

  test("grows its receive buffer", () => {
    const small = openKernelTransport({ receiveBufferBytes: 4096 });
    const large = openKernelTransport({ receiveBufferBytes: 200_000 });
    expect(large.receiveBufferBytes).toBeGreaterThan(small.receiveBufferBytes);
    expect(large.receiveBufferBytes).toBeGreaterThanOrEqual(200_000);
    small.close();
    large.close();
  });

  test("a group that cannot be joined is a SyscallError", async () => {
    const transport = openKernelTransport();
    await expect(transport.joinGroup(0)).rejects.toMatchObject({
      name: "SyscallError",
      errno: constants.errno.EINVAL,
    });
    transport.close();
  });
});

describe("libc", () => {
  test("reports errno of the very call, on and off the loop", async () => {
    expect(() => libc.closeSocket(-1)).toThrow(
      expect.objectContaining({ errno: constants.errno.EBADF, syscall: "close" }),
    );
    await expect(libc.sendOffLoop(-1, getController)).rejects.toMatchObject({ errno: constants.errno.EBADF });
    await expect(libc.receiveOffLoop(-1, new Uint8Array(8), 0)).rejects.toBeInstanceOf(SyscallError);
    expect(() => libc.getOption(-1, 1, 8)).toThrow(SyscallError);
    expect(() => libc.bindSocket(-1)).toThrow(SyscallError);
  });
});

describe("the clients on the real controller", () => {
  test("find it, list at least it, and report a name that does not exist", async () => {
    const netlink = new GenericNetlink();
    expect(await netlink.family("nlctrl")).toMatchObject({ id: 16, groups: [{ name: "notify", id: 16 }] });
    expect((await netlink.families()).map(({ name }) => name)).toContain("nlctrl");
    await expect(netlink.family("no-such-name")).rejects.toMatchObject({
      code: "ERR_NETLINK_NO_FAMILY",
      errnoName: "ENOENT",
    });
    await netlink.close();
  });

  test("do not block the event loop and do not mix up requests that are made together", async () => {
    const netlink = new GenericNetlink();
    const names = ["nlctrl", "no-such-a", "nlctrl", "no-such-b"];
    const results = await Promise.allSettled(names.map((name) => netlink.family(name, { fresh: true })));
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled", "rejected"]);
    const messages = results.flatMap((result) =>
      result.status === "rejected" ? [String(result.reason)] : [],
    );
    expect(messages).toEqual([
      expect.stringContaining("'no-such-a'"),
      expect.stringContaining("'no-such-b'"),
    ]);
    await netlink.close();
  });

  test("leave no descriptor behind", async () => {
    const before = netlinkFds();
    const netlink = new GenericNetlink();
    const schema = { familyName: "nlctrl", commands: {}, attributes: {} };
    await netlink.subscribe({
      schema,
      groupName: "notify",
      onMessage: () => undefined,
      onResync: () => undefined,
    });
    expect(netlinkFds().length).toBe(before.length + 2);
    await netlink.close();
    expect(netlinkFds()).toEqual(before);
  });

  test("a socket that cannot be opened is a NetlinkError with a hint", () => {
    const openTransport = (): never => {
      throw new SyscallError("open", constants.errno.EPROTONOSUPPORT);
    };
    expect(() => new GenericNetlink({ openTransport })).toThrow(
      expect.objectContaining({
        name: "NetlinkError",
        code: "ERR_NETLINK_SYSCALL",
        message: "cannot open a netlink socket: could not open the netlink socket: EPROTONOSUPPORT (93)",
        hint: expect.stringContaining("CONFIG_NET"),
      }),
    );
  });
});
