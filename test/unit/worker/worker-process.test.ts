/** The worker process: its manager, whose end it outlives, and signals. */
import { once } from "node:events";
import { chmodSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { describe, expect, test, vi } from "vitest";
import { close } from "../../../src/sys/libc/files.ts";
import { Channel } from "../../../src/sys/sockets/channel.ts";
import { connectMessages } from "../../../src/sys/sockets/listen.ts";
import type { FromWorker, ToWorker } from "../../../src/worker-protocol/messages.ts";
import { patternAt } from "../../helpers/images/sources.ts";
import { asNobody, canBeNobody } from "../../helpers/processes/as-nobody.ts";
import { until } from "../../helpers/until.ts";
import {
  channel,
  child,
  directory,
  give,
  heard,
  reunion,
  tcpListeners,
  told,
  useWorker,
  workerDescriptors,
} from "./worker-rig.ts";

// A process has to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });
useWorker();

describe("a worker process", () => {
  test("goes on when its manager is gone, and leaves with its last link", async () => {
    const clients = [await give(1), await give(2)];
    channel.close();
    for (const client of clients) expect(await client.read(7, 7)).toEqual(patternAt(7, 7));
    const exit = once(child, "exit");
    await clients[0]?.disconnect();
    expect(await clients[1]?.read(8, 8)).toEqual(patternAt(8, 8));
    await clients[1]?.disconnect();
    expect(await exit).toEqual([0, null]);
  });

  test("leaves at once when its manager goes and it has no link", async () => {
    const exit = once(child, "exit");
    channel.close();
    expect(await exit).toEqual([0, null]);
  });

  test("that is told to stop serves its links to their end first", async () => {
    const client = await give(1);
    await channel.send({ type: "stop" });
    expect(await client.read(7, 7)).toEqual(patternAt(7, 7));
    const exit = once(child, "exit");
    await client.disconnect();
    expect(await exit).toEqual([0, null]);
  });

  test("answers pings", async () => {
    await channel.send({ type: "ping" });
    await heard("pong");
  });

  test("keeps no file that its program had left open for its children", async () => {
    expect(workerDescriptors().filter((target) => target.startsWith(directory))).toEqual([]);
  });

  test("opens no inspector when it is sent SIGUSR1, and serves on", async () => {
    const client = await give(1);
    for (let round = 1; round <= 20; round += 1) {
      child.kill("SIGUSR1");
      await channel.send({ type: "ping" });
      await until("it answers", () => told.filter(({ type }) => type === "pong").length === round);
      expect(tcpListeners()).toEqual([]);
    }
    // An inspector is opened by a thread of its own, and might only be late.
    const ignored = /^SigIgn:\s*(\w+)$/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1];
    expect(BigInt(`0x${ignored}`) & (1n << BigInt(constants.signals.SIGUSR1 - 1))).not.toBe(0n);
    expect(await client.read(7, 7)).toEqual(patternAt(7, 7));
    client.destroy();
  });

  test("reports every link and its descriptors to the next manager, and obeys that one", async () => {
    const clients = [await give(1), await give(2, 4096)];
    for (const client of clients) await client.read(7, 7);
    const met: FromWorker[] = [];
    const got: number[] = [];
    const next = new Channel<FromWorker, ToWorker>(connectMessages(reunion), {
      message: (message, fds) => {
        met.push(message);
        got.push(...fds);
      },
      end: () => {},
    });
    await until("all is told", () => met.at(-1)?.type === "ready");
    expect(met).toEqual([
      { type: "reunion", pid: child.pid, links: 2 },
      expect.objectContaining({
        type: "held",
        link: 1,
        blockSizeBytes: 512,
        device: "a device",
        counted: true,
      }),
      expect.objectContaining({ type: "held", link: 2, blockSizeBytes: 4096 }),
      { type: "ready", leases: true, offers: true },
    ]);
    expect(got).toHaveLength(12);
    for (const fd of got) close(fd);
    for (const client of clients) expect(await client.read(8, 8)).toEqual(patternAt(8, 8));
    await next.send({ type: "close", link: 1 });
    await clients[0]?.closed;
    expect(await clients[1]?.read(9, 9)).toEqual(patternAt(9, 9));
    await clients[1]?.disconnect();
    await until("its end is told to the new one", () => met.at(-1)?.type === "ended");
    const exit = once(child, "exit");
    next.close();
    expect(await exit).toEqual([0, null]);
  });

  test.runIf(canBeNobody)(
    "keeps its manager when another user, such as another worker's, connects to it",
    async () => {
      const client = await give(1);
      chmodSync(directory, 0o755);
      chmodSync(reunion, 0o666);
      const said: unknown[] = [];
      let isCut = false;
      const fd = asNobody(() => connectMessages(reunion));
      const stranger = new Channel<FromWorker, ToWorker>(fd, {
        message: (message, fds) => {
          said.push(message);
          for (const one of fds) close(one);
        },
        end: () => {
          isCut = true;
        },
      });
      await until("it is cut off", () => isCut);
      stranger.close();
      expect(said).toEqual([]);
      await channel.send({ type: "ping" });
      await heard("pong");
      expect(await client.read(8, 8)).toEqual(patternAt(8, 8));
      await client.disconnect();
    },
  );

  test("that is killed leaves its clients an end of file, and no reply to an open request", async () => {
    const client = await give(1);
    await client.read(0, 1);
    child.kill("SIGSTOP");
    const unanswered = expect(client.read(0, 4096)).rejects.toThrow(/closed|ended|ECONNRESET/);
    const exit = once(child, "exit");
    child.kill("SIGKILL");
    expect(await exit).toEqual([null, "SIGKILL"]);
    await unanswered;
    await client.closed;
  });
});
