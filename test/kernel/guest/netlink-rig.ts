/**
 * What the netlink tests share inside a kernel: links, a server of a few lines, clients, listeners, and their cleanup.
 *
 * Imported by netlink-*.test.ts next to it. It imports nothing of the product but netlink/.
 */
import { spawn, spawnSync } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { readFileSync } from "node:fs";
import { Socket } from "node:net";
import { release } from "node:os";
import koffi from "koffi";
import { afterEach, beforeEach, expect } from "vitest";
import {
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  type NbdEvent,
  NbdNetlink,
  type NbdNetlinkOptions,
} from "../../../netlink/index.ts";
import { LIMITS } from "../../limits.mjs";
import { type Guard, guarded } from "./leftovers.ts";

/** How long a test waits for what must come. */
export const DEADLINE_MS: number = LIMITS.stepMs;
export const BLOCK_BYTES: number = 4096;
const REQUEST_BYTES = 28;

const [major = 0, minor = 0] = release().split(".").map(Number);
export const atLeast = (wantedMajor: number, wantedMinor: number): boolean =>
  major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);

const library = koffi.load(null);
const socketpair = library.func("int socketpair(int, int, int, void *)");
const closeFd = library.func("int close(int)");
const capget = library.func("int capget(void *, void *)");
const capset = library.func("int capset(void *, void *)");

const cleanups: (() => unknown)[] = [];
let identifiers = 0;

/**
 * Call once at the top of a test file. Loads the driver, undoes after each test what the functions below did, in
 * reverse order, and then runs the leftover check.
 */
export function useRig(): Guard {
  // First, so that its check runs last: hooks of one level run in reverse.
  const guard = guarded([/^block nbd\d+: Send disconnect failed -32$/]);
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });
  beforeEach(() => {
    const { status, stderr } = spawnSync("modprobe", ["nbd"], { encoding: "utf8" });
    if (status !== 0) throw new Error(`cannot load nbd: ${stderr}`);
  });
  return guard;
}

/** Has something undone after the test. */
export function cleanUp(undo: () => unknown): void {
  cleanups.push(undo);
}

/** A link: what the kernel gets, and our end of it. Both are closed after the test unless that happened before. */
export interface Link {
  readonly kernelFd: number;
  readonly serverFd: number;
  closeServerEnd(): void;
}

export function openLink(): Link {
  const fds = new Int32Array(2);
  expect(socketpair(1, 0o2000001, 0, fds)).toBe(0);
  const [kernelFd = -1, serverFd = -1] = fds;
  let isOpen = true;
  const closeServerEnd = (): void => {
    if (isOpen) closeFd(serverFd);
    isOpen = false;
  };
  cleanups.push(() => closeFd(kernelFd), closeServerEnd);
  return { kernelFd, serverFd, closeServerEnd };
}

/** Answers the reads of a link, every byte being `fill`. The socket owns the descriptor from here on. */
export class TinyServer {
  readonly #socket: Socket;
  readonly #fill: number;
  readonly #arrivals = new EventEmitter();
  #heldOffset: bigint | undefined;

  constructor(link: Link, fill: number) {
    this.#fill = fill;
    this.#socket = new Socket({ fd: link.serverFd });
    this.#socket.on("error", () => undefined);
    let pending = Buffer.alloc(0);
    this.#socket.on("data", (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= REQUEST_BYTES) {
        this.#accept(pending.subarray(0, REQUEST_BYTES));
        pending = pending.subarray(REQUEST_BYTES);
      }
    });
  }

  /** Keeps the next read of that block unanswered; resolves, once it is there, with the function that answers it. */
  async hold(block: number): Promise<() => void> {
    this.#heldOffset = BigInt(block * BLOCK_BYTES);
    const [request] = await once(this.#arrivals, "held", { signal: AbortSignal.timeout(DEADLINE_MS) });
    return () => this.#answer(request);
  }

  async close(): Promise<void> {
    if (this.#socket.closed) return;
    const closed = once(this.#socket, "close");
    this.#socket.destroy();
    await closed;
  }

  #accept(request: Buffer): void {
    const isRead = request.readUInt32BE(4) === 0;
    if (isRead && request.readBigUInt64BE(16) === this.#heldOffset) {
      this.#heldOffset = undefined;
      this.#arrivals.emit("held", request);
    } else if (isRead) {
      this.#answer(request);
    }
  }

  #answer(request: Buffer): void {
    const header = Buffer.alloc(16);
    header.writeUInt32BE(0x67446698, 0);
    request.copy(header, 8, 8, 16);
    this.#socket.write(Buffer.concat([header, Buffer.alloc(request.readUInt32BE(24), this.#fill)]));
  }
}

export function serve(link: Link, fill: number): TinyServer {
  const server = new TinyServer(link, fill);
  const owned = cleanups.indexOf(link.closeServerEnd);
  cleanups.splice(owned, 1);
  cleanups.push(() => server.close());
  return server;
}

export function open(options: NbdNetlinkOptions = {}): NbdNetlink {
  const nbd = new NbdNetlink(options);
  cleanups.push(() => nbd.close());
  return nbd;
}

export function settings(): Parameters<NbdNetlink["connect"]>[0] {
  identifiers += 1;
  return {
    sizeBytes: 1024 * 1024,
    blockSizeBytes: BLOCK_BYTES,
    timeoutSeconds: 0,
    deadConnectionTimeoutSeconds: 60,
    serverFlags: NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_CAN_MULTI_CONN,
    clientFlags: 0,
    sockets: [],
    backendIdentifier: `netlink-test-${process.pid}-${identifiers}`,
  };
}

/** A connected device that is disconnected after the test. Links must be opened before. */
export async function connect(
  nbd: NbdNetlink,
  links: readonly Link[],
  index?: number,
): Promise<{ index: number; identifier: string }> {
  const options = { ...settings(), sockets: links.map(({ kernelFd }) => kernelFd) };
  const connected = await nbd.connect({ ...options, index });
  cleanups.push(() => nbd.disconnect(connected.index));
  return { index: connected.index, identifier: options.backendIdentifier };
}

/** Collects events and waits for the next one. */
export class Listener {
  readonly #queue: NbdEvent[] = [];
  readonly #arrivals = new EventEmitter();

  readonly hear = (event: NbdEvent): void => {
    this.#queue.push(event);
    this.#arrivals.emit("event");
  };

  async next(): Promise<NbdEvent> {
    const signal = AbortSignal.timeout(DEADLINE_MS);
    while (this.#queue.length === 0) await once(this.#arrivals, "event", { signal });
    const event = this.#queue.shift();
    if (event === undefined) throw new Error("no event");
    return event;
  }

  /** Waits for an event like this one, skipping others. */
  async nextLike(wanted: Partial<NbdEvent>): Promise<NbdEvent> {
    for (;;) {
      const event = await this.next();
      if (
        Object.entries(wanted).every(([key, value]) =>
          Object.entries(event).some(([k, v]) => k === key && v === value),
        )
      ) {
        return event;
      }
    }
  }
}

export async function listen(nbd: NbdNetlink, receiveBufferBytes?: number): Promise<Listener> {
  const listener = new Listener();
  await nbd.linkDeadEvents(listener.hear, { receiveBufferBytes });
  return listener;
}

/** Reads one block directly from the device in a process of its own. */
export async function readBlock(index: number, block: number): Promise<Buffer> {
  const device = `/dev/nbd${index}`;
  const options = ["iflag=direct", `bs=${BLOCK_BYTES}`, "count=1", `skip=${block}`, "status=none"];
  const child = spawn("dd", [`if=${device}`, ...options], { stdio: ["ignore", "pipe", "inherit"] });
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  await once(child, "close");
  return Buffer.concat(chunks);
}

export const sysfs = (index: number, name: string): string =>
  readFileSync(`/sys/block/nbd${index}/${name}`, "utf8").trim();

/** Waits, without letting the event loop read anything, until the kernel had to drop a message for that port. */
export function waitForDrops(portId: number): void {
  const deadlineMs = Date.now() + DEADLINE_MS;
  while (Date.now() < deadlineMs) {
    const rows = readFileSync("/proc/net/netlink", "utf8").split("\n");
    const row = rows.map((line) => line.trim().split(/\s+/)).find((columns) => columns[2] === String(portId));
    if (Number(row?.[8]) > 0) return;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  }
  throw new Error("the kernel dropped nothing");
}

/** Runs `body` while this thread lacks CAP_SYS_ADMIN. Capabilities belong to threads; the pool's keep theirs. */
export function withoutSysAdmin<T>(body: () => T): T {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x20080522);
  const capabilities = Buffer.alloc(24);
  expect(capget(header, capabilities)).toBe(0);
  const reduced = Buffer.from(capabilities);
  reduced.writeUInt32LE((reduced.readUInt32LE(0) & ~(1 << 21)) >>> 0, 0);
  expect(capset(header, reduced)).toBe(0);
  try {
    return body();
  } finally {
    expect(capset(header, capabilities)).toBe(0);
  }
}
