/** reattach.ts: what a worker says of itself is believed only where it can be checked. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  realpathSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import { type ReconnectedWorker, reattachWorkers } from "../../../src/pool/reattach.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { SOCK_SEQPACKET } from "../../../src/sys/libc/sockets.ts";
import { Acceptor } from "../../../src/sys/sockets/acceptor.ts";
import { Channel } from "../../../src/sys/sockets/channel.ts";
import { listenUnix } from "../../../src/sys/sockets/listen.ts";
import { isFromWorker } from "../../../src/worker-protocol/from-worker.ts";
import { asNobody, canBeNobody } from "../../helpers/processes/as-nobody.ts";
import { openDescriptors } from "../../helpers/sockets/descriptors.ts";
import { until } from "../../helpers/until.ts";

let directory: string;
let workers: string;
let journals: string;
let before: number;
let acceptor: Acceptor | undefined;
const channels: Channel<unknown, unknown>[] = [];

beforeEach(() => {
  before = openDescriptors().size;
  directory = realpathSync(mkdtempSync(join(tmpdir(), "erofs-nbd-reunion-")));
  [workers, journals] = ["workers", "journals"].map((name) => join(directory, name)) as [string, string];
  for (const path of [workers, journals]) mkdirSync(path);
});
afterEach(async () => {
  vi.useRealTimers();
  acceptor?.close();
  acceptor = undefined;
  for (const channel of channels.splice(0)) channel.close();
  rmSync(directory, { recursive: true });
  await until("nothing is left open", () => openDescriptors().size === before);
});

const held = (link: number): object => ({
  type: "held",
  link,
  device: "a device",
  slot: 0,
  source: {},
  blockSizeBytes: 512,
  copyOnly: false,
  counted: true,
  confirmed: true,
});

/** A worker, in this process, that sends these messages to each peer. */
function worker(
  says: ReadonlyArray<readonly [message: unknown, fds?: readonly number[]]>,
  listen = (path: string): number => listenUnix(path, SOCK_SEQPACKET),
): void {
  const path = join(workers, "1.sock");
  acceptor = new Acceptor(listen(path), {
    connection: (fd) => {
      const channel = new Channel<unknown, unknown>(fd, { message: () => {}, end: () => {} });
      channels.push(channel);
      for (const [message, fds] of says) channel.send(message, fds).catch(() => {});
    },
    trouble: () => {},
  });
}

/** Meets it; one that does not say all it announced is given up as its patience passes. */
async function meet(): Promise<readonly ReconnectedWorker[]> {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  const result = reattachWorkers(workers, journals);
  for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  await vi.advanceTimersByTimeAsync(3000);
  return (await result).reattached;
}

describe("connecting to a worker", () => {
  test("returns its identity and what it serves", async () => {
    const journal = openSync(join(journals, "a.journal"), "w+");
    ftruncateSync(journal, JOURNAL_BYTES);
    worker([[{ type: "reunion", pid: process.pid, links: 1 }], [held(7), [journal, 0, journal, 0, 0, 0]]]);
    const [met, ...others] = await meet();
    closeSync(journal);
    expect(others).toEqual([]);
    expect(met).toMatchObject({
      pid: process.pid,
      links: [{ description: { link: 7, device: "a device" } }],
    });
    close(met?.channelFd ?? -1);
    close(met?.pidFd ?? -1);
    for (const link of met?.links ?? []) for (const fd of link.fds) close(fd);
  });

  test("refuses the pid of another process, which would be sent signals", async () => {
    const other = spawn("sleep", ["1000"], { stdio: "ignore" });
    for (const pid of [other.pid, 2 ** 30]) {
      worker([[{ type: "reunion", pid, links: 0 }]]);
      expect(await meet()).toEqual([]);
      vi.useRealTimers();
      acceptor?.close();
      acceptor = undefined;
      rmSync(join(workers, "1.sock"));
    }
    other.kill("SIGKILL");
    await once(other, "exit");
  });

  test.runIf(canBeNobody)("refuses a socket on which another user listens", async () => {
    chmodSync(directory, 0o755);
    chmodSync(workers, 0o777);
    worker([[{ type: "reunion", pid: process.pid, links: 0 }]], (path) =>
      asNobody(() => listenUnix(path, SOCK_SEQPACKET)),
    );
    expect(await meet()).toEqual([]);
  });

  test("refuses a journal from outside the directory of journals, which would be removed later", async () => {
    const precious = openSync(join(directory, "precious"), "w+");
    worker([[{ type: "reunion", pid: process.pid, links: 1 }], [held(7), [0, 0, precious, 0, 0, 0]]]);
    expect(await meet()).toEqual([]);
    closeSync(precious);
    expect(existsSync(join(directory, "precious"))).toBe(true);
  });

  test("refuses a truncated journal: mapping it would kill this manager and every later one", async () => {
    const cut = openSync(join(journals, "a.journal"), "w+");
    ftruncateSync(cut, JOURNAL_BYTES - 4096);
    worker([[{ type: "reunion", pid: process.pid, links: 1 }], [held(7), [0, 0, cut, 0, 0, 0]]]);
    expect(await meet()).toEqual([]);
    closeSync(cut);
  });

  test("does not receive an answer after the deadline, so that no descriptor of a link is kept", async () => {
    worker([[{ type: "reunion", pid: process.pid, links: 1 }]]);
    expect(await meet()).toEqual([]);
    vi.useRealTimers();
    await channels[0]?.send(held(7), [0, 0, 0, 0, 0, 0]).catch(() => {});
    await until("the end of the connection", () => channels[0]?.isOpen === false);
  });

  test("refuses invalid messages, and none", async () => {
    const nonsense: unknown[] = [
      5,
      null,
      [],
      {},
      { type: "reunion" },
      { type: "reunion", pid: 1, links: 0 },
      { type: "reunion", pid: -5, links: 0 },
      { type: "reunion", pid: process.pid, links: 1e9 },
      { type: "held" },
      { ...held(1), slot: 1e9 },
      { type: "ended", link: 1 },
      { type: "ended", link: 1, end: {}, counters: {} },
      { type: "explode" },
    ];
    for (const one of nonsense) {
      worker([[one, [0, 0]]]);
      expect(await meet(), JSON.stringify(one)).toEqual([]);
      vi.useRealTimers();
      acceptor?.close();
      acceptor = undefined;
      rmSync(join(workers, "1.sock"));
    }
    expect(nonsense.filter(isFromWorker)).toEqual([{ type: "reunion", pid: process.pid, links: 1e9 }]);
  });
});

test("a link of a worker of a former version, which does not report confirmation, is accepted", () => {
  const { confirmed: _, ...former } = held(1) as Record<string, unknown>;
  expect(former).not.toHaveProperty("confirmed");
  expect(isFromWorker(former)).toBe(true);
});
