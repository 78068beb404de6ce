/**
 * netlink/ on the real driver: dead links and fresh sockets, a module reload, an overflowing receive buffer, and a
 * command that stays inside the kernel.
 *
 * Runs inside a kernel of the lab, or on a host with nbd (the module is reloaded in the lab only).
 */
import { spawnSync } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { describe, expect, test } from "vitest";
import { type NetlinkTransport, openKernelTransport, type StuckReport } from "../../../netlink/index.ts";
import { LINK_DEATH_LINES } from "./leftovers.ts";
import {
  atLeast,
  BLOCK_BYTES,
  connect,
  DEADLINE_MS,
  listen,
  open,
  openLink,
  readBlock,
  serve,
  sysfs,
  useRig,
  waitForDrops,
} from "./netlink-rig.ts";

const guard = useRig();

describe("link-dead events and reconfigure", () => {
  test("a closed peer is reported, a fresh socket is taken, and reads go on over it", async () => {
    guard.expectKernelLog(...LINK_DEATH_LINES);
    const nbd = open();
    const events = await listen(nbd);
    const link = openLink();
    const fresh = openLink();
    const { index, identifier } = await connect(nbd, [link]);
    link.closeServerEnd();
    expect(await events.next()).toEqual({ type: "link-dead", index });
    serve(fresh, 0x5a);
    await nbd.reconfigure({ index, backendIdentifier: identifier, sockets: [fresh.kernelFd] });
    expect((await readBlock(index, 77)).equals(Buffer.alloc(BLOCK_BYTES, 0x5a))).toBe(true);
  });

  test("each of several sockets has one event", async () => {
    guard.expectKernelLog(...LINK_DEATH_LINES);
    const nbd = open();
    const events = await listen(nbd);
    const links = [openLink(), openLink(), openLink()];
    const { index } = await connect(nbd, links);
    for (const link of links) link.closeServerEnd();
    for (const _link of links) expect(await events.next()).toEqual({ type: "link-dead", index });
  });

  test("another identifier is refused with EINVAL and a hint, and the device stays as it was", async () => {
    guard.expectKernelLog(/backend image doesn't match/);
    const nbd = open();
    const { index, identifier } = await connect(nbd, [openLink()]);
    await expect(nbd.reconfigure({ index, backendIdentifier: "another program's" })).rejects.toMatchObject({
      message: `cannot reconfigure nbd${index}: EINVAL (22) from RECONFIGURE, no kernel message`,
      hint: expect.stringContaining("backend identifier"),
    });
    expect(sysfs(index, "backend")).toBe(identifier);
    await nbd.reconfigure({
      index,
      backendIdentifier: identifier,
      timeoutSeconds: 7,
      sizeBytes: 2 * 1024 * 1024,
    });
    expect(sysfs(index, "size")).toBe("4096");
  });

  test("a receive buffer that overflows makes the listener resynchronise, and later events still come", async () => {
    guard.expectKernelLog(...LINK_DEATH_LINES);
    const transports: NetlinkTransport[] = [];
    const nbd = open({
      openTransport: (options) => {
        const transport = openKernelTransport(options);
        transports.push(transport);
        return transport;
      },
    });
    const events = await listen(nbd, 4096);
    const links = Array.from({ length: 24 }, openLink);
    const later = openLink();
    await connect(nbd, links);
    for (const link of links) link.closeServerEnd();
    waitForDrops(transports[1]?.portId ?? 0);
    await events.nextLike({ type: "resync", reason: "messages-lost" });
    const { index } = await connect(nbd, [later]);
    later.closeServerEnd();
    expect(await events.nextLike({ type: "link-dead", index })).toEqual({ type: "link-dead", index });
  });
});

describe("a module reload", () => {
  test.runIf(process.env["EROFS_NBD_LAB_KERNEL"] !== undefined)(
    "the family is found again, and events still arrive",
    async () => {
      guard.expectKernelLog(...LINK_DEATH_LINES);
      const nbd = open();
      const silent = open();
      const events = await listen(nbd);
      await silent.status();
      expect(spawnSync("rmmod", ["nbd"], { encoding: "utf8" })).toMatchObject({ status: 0 });
      expect(await events.next()).toEqual({ type: "resync", reason: "family-removed" });
      if (!atLeast(6, 6)) {
        await expect(nbd.status()).rejects.toMatchObject({
          code: "ERR_NETLINK_NO_FAMILY",
          hint: expect.stringContaining("modprobe nbd"),
        });
      }
      expect(spawnSync("modprobe", ["nbd"], { encoding: "utf8" })).toMatchObject({ status: 0 });
      expect(await events.next()).toEqual({ type: "resync", reason: "family-reloaded" });
      // This client has no subscription: it learns of the new id from the refusal of the old one.
      expect((await silent.status()).length).toBeGreaterThan(1);
      const link = openLink();
      const { index } = await connect(nbd, [link]);
      link.closeServerEnd();
      expect(await events.next()).toEqual({ type: "link-dead", index });
    },
  );
});

describe("a command that stays inside the kernel", () => {
  // A size change waits for what is in flight from 6.12 on (6.1 does not freeze the queue).
  test.runIf(atLeast(6, 12))(
    "is reported while the event loop goes on, and again when it has returned",
    async () => {
      const reports: StuckReport[] = [];
      const arrivals = new EventEmitter();
      const onStuck = (report: StuckReport): void => {
        reports.push(report);
        arrivals.emit("report");
      };
      const nbd = open({ stuckAfterMs: 300, onStuck });
      const link = openLink();
      const server = serve(link, 0x11);
      const { index, identifier } = await connect(nbd, [link]);
      reports.length = 0;
      const held = server.hold(77);
      const output = readBlock(index, 77);
      const answer = await held;
      reports.length = 0;
      const reported = once(arrivals, "report", { signal: AbortSignal.timeout(DEADLINE_MS) });
      const resized = nbd.reconfigure({ index, backendIdentifier: identifier, sizeBytes: 2 * 1024 * 1024 });
      await reported;
      expect(reports).toMatchObject([{ command: "RECONFIGURE", deviceIndex: index, returned: false }]);
      answer();
      expect((await output).equals(Buffer.alloc(BLOCK_BYTES, 0x11))).toBe(true);
      await resized;
      expect(reports.at(1)).toMatchObject({ command: "RECONFIGURE", deviceIndex: index, returned: true });
      expect(sysfs(index, "size")).toBe("4096");
    },
  );
});
