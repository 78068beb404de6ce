/** socket.ts over a fake kernel: matching, order, deadlines, close, the watchdog. Failures: socket-failures.test.ts. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import type { FakeHandler, NetlinkSocketOptions, StuckReport } from "../../../../netlink/index.ts";
import { ack, attribute, readRequest, sequenceOf, text } from "../encode.ts";
import { answerTo, ask, gate, open } from "./socket-rig.ts";

const { EBUSY, EPERM } = constants.errno;

describe("a request", () => {
  test("always asks for an acknowledgement, numbers itself and names its port", async () => {
    const { socket, kernel } = open((request, k) => k.deliver(ack(request)));
    await ask(socket);
    await ask(socket);
    const [first, second] = kernel.sent.map(readRequest);
    expect([first?.flags, second?.flags]).toEqual([5, 5]);
    expect(second?.sequence).toBe((first?.sequence ?? 0) + 1);
    expect(Buffer.from(kernel.sent[0] ?? []).readUInt32LE(12)).toBe(kernel.portId);
    await socket.close();
  });

  test("resolves with the data that came before the acknowledgement", async () => {
    const { socket } = open((request, k) => {
      k.deliver(answerTo(request, 42));
      k.deliver(ack(request));
    });
    const { messages, warning } = await ask(socket);
    expect(messages.map(({ payload }) => Buffer.from(payload).readUInt32LE(4))).toEqual([42]);
    expect(warning).toBeUndefined();
    await socket.close();
  });

  test("delivers the kernel's text on success in the answer and to the listener", async () => {
    const heard: string[] = [];
    const onWarning: NetlinkSocketOptions["onWarning"] = (warning, label) =>
      heard.push(`${label.command}: ${warning}`);
    const { socket } = open(
      (request, k) => k.deliver(ack(request, { tlvs: [attribute(1, text("old attribute"))] })),
      {
        onWarning,
      },
    );
    expect((await ask(socket)).warning).toBe("old attribute");
    expect(heard).toEqual(["POKE: old attribute"]);
    await socket.close();
  });

  test.each([true, false])(
    "rejects with errno, text and sequence of a refusal (capped: %s)",
    async (capped) => {
      const tlvs = [attribute(1, text("in use"))];
      const { socket, kernel } = open((request, k) =>
        k.deliver(ack(request, { errno: EBUSY, capped, tlvs })),
      );
      await expect(ask(socket)).rejects.toMatchObject({
        name: "NetlinkError",
        code: "ERR_NETLINK_REFUSED",
        origin: "ack",
        command: "POKE",
        errno: EBUSY,
        errnoName: "EBUSY",
        kernelMessage: "in use",
        deviceIndex: 3,
        sequence: expect.any(Number),
        message: "cannot poke nbd3: EBUSY (16) from POKE, the kernel says 'in use'",
      });
      expect(kernel.sent).toHaveLength(1);
      await socket.close();
    },
  );

  test("the message says that the kernel gave no text", async () => {
    const { socket } = open((request, k) => k.deliver(ack(request, { errno: EBUSY })));
    await expect(ask(socket)).rejects.toThrow("cannot poke nbd3: EBUSY (16) from POKE, no kernel message");
    await socket.close();
  });

  test("skips answers to other requests and datagrams that are not the kernel's", async () => {
    const { socket } = open((request, k) => {
      k.deliver(ack(request, { errno: EBUSY, sequence: sequenceOf(request) - 1 }));
      k.deliver(ack(request, { errno: EPERM }), { senderPortId: 1234 });
      k.deliver(answerTo(request));
      k.deliver(ack(request));
    });
    expect((await ask(socket)).messages).toHaveLength(1);
    await socket.close();
  });

  test("waits for an answer that is not there yet when the send returns", async () => {
    const { socket, kernel } = open((request, k) => {
      const late = ack(request);
      setImmediate(() => setImmediate(() => k.deliver(late)));
    });
    await expect(ask(socket)).resolves.toEqual({ messages: [] });
    expect(kernel.watchCount).toBe(0);
    await socket.close();
  });

  test("fails with a timeout if the kernel does not answer; the next request ignores a late answer", async () => {
    let first: Uint8Array | undefined;
    const { socket, kernel } = open(
      (request, k) => {
        if (first === undefined) {
          first = request.slice();
          return;
        }
        k.deliver(answerTo(first, 1));
        k.deliver(ack(first, { errno: EPERM }));
        k.deliver(answerTo(request, 2));
        k.deliver(ack(request));
      },
      { answerDeadlineMs: 300 },
    );
    await expect(ask(socket)).rejects.toMatchObject({
      code: "ERR_NETLINK_TIMEOUT",
      origin: "timeout",
      errno: undefined,
    });
    const { messages } = await ask(socket);
    expect(messages.map(({ payload }) => Buffer.from(payload).readUInt32LE(4))).toEqual([2]);
    expect(kernel.watchCount).toBe(0);
    await socket.close();
  });

  test("rejects malformed bytes as a decode error and goes on with the next request", async () => {
    let count = 0;
    const { socket } = open((request, k) => {
      count += 1;
      k.deliver(count === 1 ? Buffer.from([1, 2, 3]) : ack(request));
    });
    await expect(ask(socket)).rejects.toMatchObject({
      code: "ERR_NETLINK_DECODE",
      origin: "decode",
      cause: { name: "DecodeError" },
    });
    await expect(ask(socket)).resolves.toEqual({ messages: [] });
    await socket.close();
  });
});

describe("order", () => {
  test("one transaction at a time, in the order of the calls", async () => {
    const release = gate();
    const seen: number[] = [];
    const { socket, kernel } = open(async (request, k) => {
      seen.push(Buffer.from(request).readUInt8(16));
      if (seen.length === 1) await release.opened;
      k.deliver(ack(request));
    });
    const both = [7, 8].map((command) => ask(socket, { payload: Uint8Array.of(command, 1, 0, 0) }));
    await new Promise(setImmediate);
    expect(seen).toEqual([7]);
    release.open();
    await Promise.all(both);
    expect(seen).toEqual([7, 8]);
    expect(kernel.sent).toHaveLength(2);
    await socket.close();
  });

  test("a failed request does not stop the ones behind it", async () => {
    const { socket, kernel } = open((request, k) => k.deliver(ack(request)));
    kernel.failSend(EPERM);
    const [first, second] = [ask(socket), ask(socket)];
    await expect(first).rejects.toMatchObject({ errno: EPERM });
    await expect(second).resolves.toEqual({ messages: [] });
    await socket.close();
  });
});

describe("close", () => {
  test("rejects running and waiting requests, and keeps the descriptor until the send has returned", async () => {
    const entered = gate();
    const release = gate();
    const { socket, kernel } = open(async () => {
      entered.open();
      await release.opened;
    });
    const running = ask(socket);
    const waiting = ask(socket);
    await entered.opened;
    const closed = socket.close();
    await expect(running).rejects.toMatchObject({ code: "ERR_NETLINK_CLOSED", origin: "closed" });
    await expect(waiting).rejects.toMatchObject({ code: "ERR_NETLINK_CLOSED" });
    expect(kernel.isClosed).toBe(false);
    release.open();
    await closed;
    expect(kernel.isClosed).toBe(true);
    expect(kernel.sent).toHaveLength(1);
  });

  test("ends a wait for an answer at once", async () => {
    const entered = gate();
    const { socket, kernel } = open(() => entered.open(), { answerDeadlineMs: 600_000 });
    const running = ask(socket);
    await entered.opened;
    await new Promise(setImmediate);
    expect(kernel.watchCount).toBe(1);
    await Promise.all([
      socket.close(),
      expect(running).rejects.toMatchObject({ code: "ERR_NETLINK_CLOSED" }),
    ]);
    expect(kernel.watchCount).toBe(0);
    expect(kernel.isClosed).toBe(true);
  });

  test("may be called twice, and later requests are rejected", async () => {
    const { socket } = open(() => undefined);
    await Promise.all([socket.close(), socket.close()]);
    await expect(ask(socket)).rejects.toMatchObject({ code: "ERR_NETLINK_CLOSED", command: "POKE" });
  });
});

describe("the stuck watchdog", () => {
  test("names the command that stays in the kernel, and reports when it has returned", async () => {
    const reports: StuckReport[] = [];
    const firstReport = gate();
    const release = gate();
    const onStuck = (report: StuckReport): void => {
      reports.push(report);
      firstReport.open();
    };
    const handler: FakeHandler = async (request, k) => {
      await release.opened;
      k.deliver(ack(request));
    };
    const { socket } = open(handler, { stuckAfterMs: 1, onStuck });
    const running = ask(socket);
    await firstReport.opened;
    expect(reports).toMatchObject([
      { command: "POKE", purpose: "poke nbd3", deviceIndex: 3, returned: false },
    ]);
    release.open();
    await running;
    expect(reports).toHaveLength(2);
    expect(reports[1]).toMatchObject({ command: "POKE", returned: true });
    await socket.close();
  });

  test("is silent about commands that return in time", async () => {
    const reports: StuckReport[] = [];
    const { socket } = open((request, k) => k.deliver(ack(request)), {
      stuckAfterMs: 600_000,
      onStuck: (report) => reports.push(report),
    });
    await ask(socket);
    await socket.close();
    expect(reports).toEqual([]);
  });
});
