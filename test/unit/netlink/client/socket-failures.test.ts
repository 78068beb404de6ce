/** socket.ts over a fake kernel when something breaks: interruptions, losses, interrupted dumps. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { ack, done, generic, readRequest, sequenceOf, uint } from "../encode.ts";
import { answerTo, ask, open } from "./socket-rig.ts";

const { EINTR, ENOBUFS, EPERM, EBADF } = constants.errno;

describe("interruptions and losses", () => {
  test("EINTR on send: the same bytes go again", async () => {
    const { socket, kernel } = open((request, k) => k.deliver(ack(request)));
    kernel.failSend(EINTR);
    kernel.failSend(EINTR);
    await expect(ask(socket)).resolves.toEqual({ messages: [] });
    expect(kernel.sent).toHaveLength(1);
    await socket.close();
  });

  test("EINTR on receive: it is tried again", async () => {
    const { socket } = open((request, k) => {
      k.failReceive(EINTR);
      k.deliver(ack(request));
    });
    await expect(ask(socket)).resolves.toEqual({ messages: [] });
    await socket.close();
  });

  test("another errno on send is a syscall failure, not the kernel's refusal", async () => {
    const { socket, kernel } = open(() => undefined);
    kernel.failSend(EPERM);
    await expect(ask(socket)).rejects.toMatchObject({
      code: "ERR_NETLINK_SYSCALL",
      origin: "syscall",
      errno: EPERM,
      message: "cannot poke nbd3: could not send on the netlink socket: EPERM (1)",
      cause: { name: "SyscallError", syscall: "send on" },
    });
    await socket.close();
  });

  test("another errno on receive is a syscall failure", async () => {
    const { socket } = open((_request, k) => k.failReceive(EBADF));
    await expect(ask(socket)).rejects.toMatchObject({ code: "ERR_NETLINK_SYSCALL", errno: EBADF });
    await socket.close();
  });

  test("ENOBUFS with the acknowledgement behind it: lost, regardless of the acknowledgement", async () => {
    const { socket } = open((request, k) => {
      k.failReceive(ENOBUFS);
      k.deliver(ack(request));
    });
    await expect(ask(socket)).rejects.toMatchObject({ code: "ERR_NETLINK_ANSWER_LOST", errno: ENOBUFS });
    await socket.close();
  });

  test("ENOBUFS with nothing behind it: lost at once, without waiting for the deadline", async () => {
    const { socket } = open((_request, k) => k.failReceive(ENOBUFS), { answerDeadlineMs: 600_000 });
    await expect(ask(socket)).rejects.toMatchObject({ code: "ERR_NETLINK_ANSWER_LOST" });
    await socket.close();
  });

  test("a truncated answer counts as lost", async () => {
    const { socket } = open((request, k) => {
      k.deliver(answerTo(request), { truncated: true });
      k.deliver(ack(request));
    });
    await expect(ask(socket)).rejects.toMatchObject({ code: "ERR_NETLINK_ANSWER_LOST" });
    await socket.close();
  });
});

describe("dumps", () => {
  test("collect until DONE", async () => {
    const { socket, kernel } = open((request, k) => {
      for (const value of [1, 2, 3])
        k.deliver(generic({ type: 28, flags: 2, sequence: sequenceOf(request) }, 1, uint(4, value)));
      k.deliver(done(request));
    });
    expect((await ask(socket, { dump: true })).messages).toHaveLength(3);
    expect(readRequest(kernel.sent[0] ?? Buffer.alloc(20)).flags).toBe(0x305);
    await socket.close();
  });

  test("that were interrupted are rejected after they were read to their end", async () => {
    let count = 0;
    const { socket } = open((request, k) => {
      count += 1;
      k.deliver(generic({ type: 28, flags: count === 1 ? 0x12 : 2, sequence: sequenceOf(request) }, 1));
      k.deliver(done(request));
    });
    await expect(ask(socket, { dump: true })).rejects.toMatchObject({ code: "ERR_NETLINK_DUMP_INTERRUPTED" });
    expect((await ask(socket, { dump: true })).messages).toHaveLength(1);
    await socket.close();
  });
});
