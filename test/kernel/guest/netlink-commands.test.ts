/**
 * netlink/ on the real driver: connect, status, disconnect, and each refusal with its text and hint.
 *
 * Runs inside a kernel of the lab, or on a host with nbd.
 */
import { closeSync, openSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  GenericNetlink,
  NBD_ATTR_SIZE_BYTES,
  NBD_ATTR_SOCKETS,
  NBD_CMD_CONNECT,
  NBD_CMD_DISCONNECT,
  NBD_FLAG_HAS_FLAGS,
  NBD_SCHEMA,
  nested,
  u64,
} from "../../../netlink/index.ts";
import {
  atLeast,
  BLOCK_BYTES,
  cleanUp,
  connect,
  open,
  openLink,
  readBlock,
  serve,
  settings,
  sysfs,
  useRig,
  withoutSysAdmin,
} from "./netlink-rig.ts";

const guard = useRig();

describe("connect", () => {
  test("takes the kernel's choice and sets size, flags and identifier", async () => {
    const nbd = open();
    const { index, identifier } = await connect(nbd, [openLink()]);
    expect(sysfs(index, "backend")).toBe(identifier);
    expect(sysfs(index, "size")).toBe("2048");
    expect(sysfs(index, "ro")).toBe("1");
    expect(sysfs(index, "queue/logical_block_size")).toBe("4096");
    expect(Number(sysfs(index, "pid"))).toBeGreaterThan(0);
  });

  test("takes the index it is given", async () => {
    const nbd = open();
    expect((await connect(nbd, [openLink()], 5)).index).toBe(5);
    expect(await nbd.status(5)).toEqual([{ index: 5, connected: true }]);
  });

  test("takes several sockets, and its reads come over them", async () => {
    const nbd = open();
    const links = [openLink(), openLink()];
    for (const link of links) serve(link, 0xab);
    const { index } = await connect(nbd, links);
    expect((await readBlock(index, 77)).equals(Buffer.alloc(BLOCK_BYTES, 0xab))).toBe(true);
  });

  test("rejects a busy index with EBUSY and a hint", async () => {
    guard.expectKernelLog(/^nbd: nbd\d+ already in use$/);
    const nbd = open();
    const { index } = await connect(nbd, [openLink()]);
    const attempt = nbd.connect({ ...settings(), index, sockets: [openLink().kernelFd] });
    await expect(attempt).rejects.toMatchObject({
      message: `cannot connect nbd${index}: EBUSY (16) from CONNECT, no kernel message`,
      code: "ERR_NETLINK_REFUSED",
      origin: "ack",
      deviceIndex: index,
      hint: expect.stringContaining("choose another index"),
    });
  });

  test("rejects several sockets without CAN_MULTI_CONN with EINVAL and a hint", async () => {
    guard.expectKernelLog(/server does not support multiple connections per device/);
    const nbd = open();
    const sockets = [openLink().kernelFd, openLink().kernelFd];
    const attempt = nbd.connect({ ...settings(), serverFlags: NBD_FLAG_HAS_FLAGS, sockets });
    await expect(attempt).rejects.toMatchObject({
      errnoName: "EINVAL",
      hint: expect.stringContaining("CAN_MULTI_CONN"),
    });
  });

  test("rejects a descriptor that is closed, and one that is no socket", async () => {
    const nbd = open();
    const closed = nbd.connect({ ...settings(), sockets: [9999] });
    await expect(closed).rejects.toMatchObject({
      errnoName: "EBADF",
      hint: expect.stringContaining("open in this process"),
    });
    const fd = openSync("/dev/null", "r");
    cleanUp(() => closeSync(fd));
    const file = nbd.connect({ ...settings(), sockets: [fd] });
    await expect(file).rejects.toMatchObject({
      errnoName: "ENOTSOCK",
      hint: expect.stringContaining("pass sockets"),
    });
  });

  test("rejects a missing attribute with EINVAL, by name from Linux 6.4 on", async () => {
    guard.expectKernelLog(
      /nbd: must specify (at least one socket|a size in bytes for the device|an index to disconnect)/,
    );
    const generic = new GenericNetlink();
    cleanUp(() => generic.close());
    const request = (command: number, attributes: Parameters<typeof nested>[1]): Promise<unknown> =>
      generic.request({ schema: NBD_SCHEMA, command, attributes });
    const refused = (name: string): object => ({
      errnoName: "EINVAL",
      kernelAttribute: atLeast(6, 4) ? name : undefined,
      kernelAttributeProblem: atLeast(6, 4) ? "missing" : undefined,
    });
    await expect(request(NBD_CMD_CONNECT, [u64(NBD_ATTR_SIZE_BYTES, 4096)])).rejects.toMatchObject(
      refused("NBD_ATTR_SOCKETS"),
    );
    await expect(request(NBD_CMD_CONNECT, [nested(NBD_ATTR_SOCKETS, [])])).rejects.toMatchObject(
      refused("NBD_ATTR_SIZE_BYTES"),
    );
    await expect(request(NBD_CMD_DISCONNECT, [])).rejects.toMatchObject(refused("NBD_ATTR_INDEX"));
  });
});

describe("status", () => {
  test("reports one device, all, or none", async () => {
    const nbd = open();
    const { index } = await connect(nbd, [openLink()]);
    expect(await nbd.status(index)).toEqual([{ index, connected: true }]);
    const all = await nbd.status();
    expect(all.length).toBeGreaterThan(1);
    expect(all.filter(({ connected }) => connected)).toEqual([{ index, connected: true }]);
    expect(await nbd.status(30_000)).toEqual([]);
  });
});

describe("disconnect", () => {
  test("can be repeated, and frees the device", async () => {
    const nbd = open();
    const { index } = await connect(nbd, [openLink()]);
    await nbd.disconnect(index);
    await nbd.disconnect(index);
    expect(await nbd.status(index)).toEqual([{ index, connected: false }]);
  });

  test("rejects an unknown index with EINVAL and a hint", async () => {
    guard.expectKernelLog(/nbd: couldn't find device at index 30000/);
    await expect(open().disconnect(30_000)).rejects.toMatchObject({
      errnoName: "EINVAL",
      deviceIndex: 30_000,
      hint: expect.stringContaining("no such device"),
    });
  });
});

describe("missing rights", () => {
  test("a client opened without CAP_SYS_ADMIN gets EPERM with a hint; status and events work", async () => {
    const nbd = withoutSysAdmin(() => open());
    const attempt = nbd.connect({ ...settings(), sockets: [openLink().kernelFd] });
    await expect(attempt).rejects.toMatchObject({
      message: "cannot connect an nbd device: EPERM (1) from CONNECT, no kernel message",
      hint: expect.stringContaining("CAP_SYS_ADMIN"),
    });
    await expect(nbd.disconnect(0)).rejects.toMatchObject({ errnoName: "EPERM" });
    await expect(nbd.reconfigure({ index: 0, backendIdentifier: "x" })).rejects.toMatchObject({
      errnoName: "EPERM",
    });
    expect((await nbd.status()).length).toBeGreaterThan(1);
    const subscription = await nbd.linkDeadEvents(() => undefined);
    await subscription.close();
  });
});
