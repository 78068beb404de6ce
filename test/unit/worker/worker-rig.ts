/**
 * A worker process of the build with a control socket, as the manager starts it, and links that tests give to it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeEach } from "vitest";
import { Journal } from "../../../src/journal/journal.ts";
import { JOURNAL_BYTES } from "../../../src/journal/layout.ts";
import { type OpenImage, openImage } from "../../../src/source/open-image.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { allocateFile, mapShared, unmapShared } from "../../../src/sys/libc/memory.ts";
import { pipe } from "../../../src/sys/libc/pipes.ts";
import { SOCK_NONBLOCK, SOCK_SEQPACKET, SOCK_STREAM, socketPair } from "../../../src/sys/libc/sockets.ts";
import { Channel } from "../../../src/sys/sockets/channel.ts";
import { listenUnix } from "../../../src/sys/sockets/listen.ts";
import type { LinkCounters } from "../../../src/worker-protocol/link-end.ts";
import type { FromWorker, ServedLinkDescription, ToWorker } from "../../../src/worker-protocol/messages.ts";
import { patternAt } from "../../helpers/images/sources.ts";
import { MiniNbdClient } from "../../helpers/nbd/mini-nbd-client.ts";
import { openDescriptors } from "../../helpers/sockets/descriptors.ts";
import { until } from "../../helpers/until.ts";

const MAIN = fileURLToPath(new URL("../../../dist/src/worker/main.js", import.meta.url));
export const SIZE: number = 1 << 20;
/** Of a file that a program has left open for its children, as no worker should have it. */
const EXTRA_FD = 40;
export const directory: string = mkdtempSync(join(tmpdir(), "erofs-nbd-worker-"));
export const image: string = join(directory, "image");
export const reunion: string = join(directory, "reunion.sock");

// Of the current test.
export let child: ChildProcess;
export let channel: Channel<FromWorker, ToWorker>;
export let told: FromWorker[];
let before: number;

/** Gives each test of a file a worker that is ready. */
export function useWorker(): void {
  beforeEach(async () => {
    before = openDescriptors().size;
    writeFileSync(image, patternAt(0, SIZE));
    told = [];
    const [ours, theirs] = socketPair(SOCK_SEQPACKET, SOCK_NONBLOCK);
    rmSync(reunion, { force: true });
    const listening = listenUnix(reunion, SOCK_SEQPACKET);
    const extra = openSync(image, "r");
    const gap = Array<"ignore">(EXTRA_FD - 5).fill("ignore");
    const stdio = [
      "ignore" as const,
      "ignore" as const,
      "inherit" as const,
      theirs,
      listening,
      ...gap,
      extra,
    ];
    child = spawn(process.execPath, [MAIN], { stdio });
    for (const fd of [theirs, listening, extra]) close(fd);
    channel = new Channel<FromWorker, ToWorker>(ours, {
      message: (message) => told.push(message),
      end: () => {},
    });
    await heard("ready");
  });
  afterEach(async () => {
    channel.close();
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
    await until("nothing is left open", () => openDescriptors().size === before);
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
}

/** The first message of a type, and of a link, that has come or comes. */
export async function heard<T extends FromWorker["type"]>(
  type: T,
  link?: number,
): Promise<Extract<FromWorker, { type: T }>> {
  const find = (): FromWorker | undefined =>
    told.find(
      (message) =>
        message.type === type && (link === undefined || ("link" in message && message.link === link)),
    );
  await until(`the worker says ${type}`, () => find() !== undefined);
  return find() as Extract<FromWorker, { type: T }>;
}

const journalPath = (link: number): string => join(directory, `${link}.journal`);

export function describeLink(link: number, { spec }: OpenImage, blockSizeBytes = 512): ServedLinkDescription {
  return {
    link,
    device: "a device",
    slot: 0,
    source: spec,
    blockSizeBytes,
    copyOnly: false,
    counted: true,
    confirmed: false,
  };
}

/** The descriptors of a fresh link and its other end; all but the latter are to be closed by the caller. */
export function makeLink(link: number): { fds: number[]; opened: OpenImage; peerFd: number } {
  const [fd, peerFd] = socketPair(SOCK_STREAM, SOCK_NONBLOCK);
  const opened = openImage(image);
  const journalFd = openSync(journalPath(link), "w+");
  allocateFile(journalFd, JOURNAL_BYTES);
  const [kernelFd, other] = socketPair(SOCK_STREAM);
  close(other);
  return { fds: [fd, opened.fd, journalFd, ...pipe(), kernelFd], opened, peerFd };
}

/** Gives the worker a link and returns a client at its other end. Keeps no descriptor of the worker's. */
export async function give(link: number, blockSizeBytes = 512): Promise<MiniNbdClient> {
  const { fds, opened, peerFd } = makeLink(link);
  await channel.send({ type: "serve", ...describeLink(link, opened, blockSizeBytes) }, fds);
  for (const fd of fds) close(fd);
  return MiniNbdClient.open({ fd: peerFd });
}

/** What a link's journal says. */
export function countersOf(link: number): LinkCounters {
  const fd = openSync(journalPath(link), "r+");
  const memory = mapShared(fd, JOURNAL_BYTES);
  closeSync(fd);
  const { requests, readBytes, readErrors } = new Journal(memory);
  unmapShared(memory);
  return { requests, readBytes, readErrors };
}

/** The worker's sockets, pipes, and descriptors of image and journals. */
export const workerDescriptors = (): string[] =>
  readdirSync(`/proc/${child.pid}/fd`)
    .map((fd) => readlinkSync(`/proc/${child.pid}/fd/${fd}`))
    .filter((target) => /^(socket|pipe):/.test(target) || target.startsWith(directory))
    .sort();

/** Its listening TCP sockets, as lines of proc_net_tcp(5). */
export function tcpListeners(): string[] {
  const LISTEN = "0A";
  const owned = new Set(workerDescriptors());
  return ["tcp", "tcp6"]
    .flatMap((name) => readFileSync(`/proc/${child.pid}/net/${name}`, "utf8").split("\n"))
    .filter((line) => {
      const [, , , state, , , , , , inode] = line.trim().split(/\s+/);
      return state === LISTEN && owned.has(`socket:[${inode}]`);
    });
}
