/** The worker process: how it takes, serves, reports, releases and ends links. */
import { rmSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect, test, vi } from "vitest";
import { openImage } from "../../../src/source/open-image.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { patternAt } from "../../helpers/images/sources.ts";
import { MiniNbdClient } from "../../helpers/nbd/mini-nbd-client.ts";
import { until } from "../../helpers/until.ts";
import {
  channel,
  countersOf,
  describeLink,
  give,
  heard,
  image,
  makeLink,
  SIZE,
  told,
  useWorker,
  workerDescriptors,
} from "./worker-rig.ts";

// A process has to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });
useWorker();

describe("a worker process", () => {
  test("takes links while it serves others, and journals what each has done", async () => {
    const first = await give(1);
    expect(await first.read(0, 4096)).toEqual(patternAt(0, 4096));
    const going = Promise.all(Array.from({ length: 200 }, (_, i) => first.read(i * 512, 512)));
    const second = await give(2, 4096);
    expect(await second.read(8192, 100_000)).toEqual(patternAt(8192, 100_000));
    for (const [i, data] of (await going).entries()) expect(data).toEqual(patternAt(i * 512, 512));
    await Promise.all([heard("serving", 1), heard("serving", 2), heard("first-request", 2)]);
    await until("the last reply is marked as answered", () => countersOf(1).requests === 201);
    expect(countersOf(1)).toEqual({ requests: 201, readBytes: 4096 + 200 * 512, readErrors: 0 });
    await until("the large reply is marked as answered", () => countersOf(2).requests === 1);
    expect(countersOf(2)).toEqual({ requests: 1, readBytes: 100_000, readErrors: 0 });
    first.destroy();
    second.destroy();
  });

  test("reports how each link ended, and keeps none of its descriptors", async () => {
    const idle = workerDescriptors();
    for (let link = 1; link <= 20; link += 1) {
      const client = await give(link);
      expect(await client.read(link, 10)).toEqual(patternAt(link, 10));
      if (link % 2 === 0) await client.disconnect();
      else client.destroy();
      expect(await heard("ended", link)).toEqual({
        type: "ended",
        link,
        end: { kind: link % 2 === 0 ? "disconnect" : "end-of-file" },
        counters: { requests: 1, readBytes: 10, readErrors: 0 },
      });
    }
    expect(workerDescriptors()).toEqual(idle);
  });

  test("closes a link when it is told to", async () => {
    const client = await give(1);
    await client.read(0, 1);
    await channel.send({ type: "close", link: 1 });
    await client.closed;
    expect(await heard("ended", 1)).toMatchObject({ end: { kind: "closed" } });
    await channel.send({ type: "close", link: 1 });
    expect(await (await give(2)).read(0, 1)).toEqual(patternAt(0, 1));
  });

  test("refuses a link that comes without its descriptors, and closes what came", async () => {
    const idle = workerDescriptors();
    const opened = openImage(image);
    await channel.send({ type: "serve", ...describeLink(3, opened) }, [opened.fd]);
    close(opened.fd);
    expect(await heard("refused", 3)).toMatchObject({ message: expect.stringContaining("instead of 6") });
    expect(workerDescriptors()).toEqual(idle);
  });

  test("pads its image to blocks", async () => {
    truncateSync(image, SIZE - 100);
    const client = await give(1, 4096);
    const data = await client.read(SIZE - 4096, 4096);
    expect(data).toEqual(Buffer.concat([patternAt(SIZE - 4096, 3996), Buffer.alloc(100)]));
    client.destroy();
  });

  test("reports reads that failed, the first at once and the rest in one message", async () => {
    const client = await give(1);
    await client.read(0, 512);
    truncateSync(image, 4096);
    for (let i = 0; i < 5; i += 1) expect(await client.request(0, 0, 512)).toMatchObject({ errno: 5 });
    expect(await heard("read-error", 1)).toMatchObject({
      count: 1,
      message: expect.stringContaining("truncated"),
    });
    await client.disconnect();
    expect(await heard("ended", 1)).toMatchObject({ counters: { readErrors: 5 } });
    expect(told.filter((message) => message.type === "read-error").map((message) => message.count)).toEqual([
      1, 4,
    ]);
  });

  test("keeps serving an image whose path now leads to another file", async () => {
    const client = await give(1);
    rmSync(image);
    writeFileSync(image, Buffer.alloc(SIZE, 0xee));
    expect(await client.read(5000, 5000)).toEqual(patternAt(5000, 5000));
    client.destroy();
  });

  test("releases a link that lives on: later requests wait for the next worker", async () => {
    const { fds, opened, peerFd } = makeLink(1);
    await channel.send({ type: "serve", ...describeLink(1, opened) }, fds);
    const client = await MiniNbdClient.open({ fd: peerFd });
    await client.read(0, 4096);
    const idle = workerDescriptors();
    await channel.send({ type: "release", link: 1 });
    await heard("released", 1);
    await until("its descriptors are closed", () => workerDescriptors().length === idle.length - fds.length);
    const waiting = client.read(5, 5000);
    await channel.send({ type: "serve", ...describeLink(1, opened) }, fds);
    expect(await waiting).toEqual(patternAt(5, 5000));
    for (const fd of fds) close(fd);
    await until("both are in the same journal", () => countersOf(1).requests === 2);
    await client.disconnect();
    await heard("ended", 1);
    expect(told.filter(({ type }) => type === "ended")).toHaveLength(1);
  });
});
