/**
 * A worker killed at its first step, its successor at its second, the next at its third …: the real loop, under load.
 *
 * The test plays the kernel on one link: it asks, counts what is in flight as the kernel does (from before the request
 * can be read until its reply has been read whole), and takes replies as they come. Whatever instant the kill came at,
 * the settling must be safe, and in the end each request has exactly one answer, with the right bytes. A short series
 * here; STEPS=400 makes it longer.
 */
import { randomFillSync } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createLink } from "../../../src/pool/links/create-link.ts";
import type { HeldLink } from "../../../src/pool/links/held-link.ts";
import { startWorker } from "../../../src/pool/spawn.ts";
import type { WorkerProcess } from "../../../src/pool/worker-process.ts";
import { openImage } from "../../../src/source/open-image.ts";
import type { LinkRequest } from "../../../src/supervisor/ports.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { MSG_DONTWAIT, MSG_NOSIGNAL, recv, send } from "../../../src/sys/libc/sockets.ts";

const WORKER = fileURLToPath(new URL("../../helpers/processes/step-worker.mjs", import.meta.url));
const STEPS = Number(process.env["STEPS"] ?? 40);
const IMAGE_BYTES = 8 << 20;
/** What is asked for, over and over: gathered small ones, page cache ones, one beyond any pipe, one that is refused. */
const LENGTHS = [
  4096,
  4096,
  512,
  4096,
  65_536,
  4096,
  4096,
  1 << 20,
  8192,
  4096,
  5 << 20,
  4096,
  4096,
  131_072,
];
const REFUSED_EVERY = 11;
const DEPTH = 10;

let directory: string;
let image: string;
const bytes = randomFillSync(new Uint8Array(IMAGE_BYTES));

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "steps-"));
  image = join(directory, "image");
  writeFileSync(image, bytes);
  mkdirSync(join(directory, "journals"));
  mkdirSync(join(directory, "workers"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** The kernel's side of a link. */
class Kernel {
  readonly #fd: number;
  readonly #outstanding = new Map<string, { at: number; length: number; refused: boolean }>();
  readonly #reply = Buffer.alloc(6 << 20);
  #held = 0;
  #cookie = 0n;
  answered = 0;
  asking = true;

  constructor(fd: number) {
    this.#fd = fd;
  }

  get inFlight(): number {
    return this.#outstanding.size;
  }

  /** Asks for as much as it may, and reads a little of what has come. */
  turn(): void {
    while (this.asking && this.#outstanding.size < DEPTH) this.#ask();
    const room = Math.min(48 * 1024, this.#reply.length - this.#held);
    const got = recv(this.#fd, this.#reply.subarray(this.#held), room, MSG_DONTWAIT);
    if (got === 0) throw new Error("the link has ended");
    if (got > 0) this.#held += got;
    while (this.#take());
  }

  #ask(): void {
    const number = Number(this.#cookie);
    const length = LENGTHS[number % LENGTHS.length] as number;
    const refused = number % REFUSED_EVERY === REFUSED_EVERY - 1;
    const at = refused ? IMAGE_BYTES : ((number * 7919 * 512) % (IMAGE_BYTES - length)) & ~511;
    const request = Buffer.alloc(28);
    request.writeUInt32BE(0x25609513, 0);
    request.writeBigUInt64BE(this.#cookie, 8);
    request.writeBigUInt64BE(BigInt(at), 16);
    request.writeUInt32BE(length, 24);
    this.#outstanding.set(String(this.#cookie), { at, length, refused });
    this.#cookie += 1n;
    expect(send(this.#fd, request, request.length, MSG_DONTWAIT | MSG_NOSIGNAL)).toBe(request.length);
  }

  #take(): boolean {
    if (this.#held < 16) return false;
    expect(this.#reply.readUInt32BE(0)).toBe(0x67446698);
    const cookie = String(this.#reply.readBigUInt64BE(8));
    const asked = this.#outstanding.get(cookie);
    if (asked === undefined) throw new Error(`a second answer to request ${cookie}`);
    const failed = this.#reply.readUInt32BE(4) !== 0;
    expect(failed).toBe(asked.refused);
    const length = failed ? 0 : asked.length;
    if (this.#held < 16 + length) return false;
    const same = Buffer.compare(
      this.#reply.subarray(16, 16 + length),
      bytes.subarray(asked.at, asked.at + length),
    );
    if (same !== 0) throw new Error(`wrong bytes for request ${cookie}`);
    this.#reply.copyWithin(0, 16 + length, this.#held);
    this.#held -= 16 + length;
    this.#outstanding.delete(cookie);
    this.answered += 1;
    return true;
  }
}

describe.each([
  { what: "a link whose reads in flight are counted", counted: true },
  { what: "one of several links, which are not", counted: false },
])("killed at every step: $what", ({ counted }) => {
  test(
    `${STEPS} workers`,
    async () => {
      const log = join(directory, `steps-${counted}`);
      const opened = openImage(image);
      const kernel: { end?: Kernel } = {};
      const request: LinkRequest = {
        image: { spec: opened.spec, fd: opened.fd, blockSizeBytes: 512 },
        copyOnly: false,
        spread: false,
        device: `steps-${counted}`,
        linkIndex: 0,
        deviceIndex: () => undefined,
        below: [],
        counted,
        inFlight: () => kernel.end?.inFlight,
        hangTimeoutMs: 2000,
      };
      const observer = {
        firstRequest: () => {},
        readErrors: () => {},
        orphaned: () => {},
        moved: () => {},
        ended: (cause: string) => {
          throw new Error(`the link has ended: ${cause}`);
        },
      };
      const link = createLink(1, request, observer, join(directory, "journals"));
      const end = new Kernel(link.kernelFd);
      kernel.end = end;
      let next = start(1, log);
      for (let step = 1; step <= STEPS; step += 1) {
        const worker = await next;
        next = start(step === STEPS ? 0 : step + 1, log);
        await settleWhile(end, link);
        // Whether it lived long enough to say so or not.
        await whileTurning(end, worker.process.links.serve(link));
        await whileTurning(end, worker.exited);
      }
      const unhurt = await next;
      await settleWhile(end, link);
      expect(await whileTurning(end, unhurt.process.links.serve(link))).toBe(true);
      const enough = end.answered + 3 * LENGTHS.length;
      while (end.answered < enough) await turnOnce(end);
      end.asking = false;
      while (end.inFlight > 0) await turnOnce(end);
      expect(link.isQuiet).toBe(true);
      unhurt.process.kill();
      await unhurt.exited;
      link.close();
      link.closeKernelEnd();
      close(opened.fd);
      expect(killed(log).length).toBe(STEPS);
      if (STEPS < 100) return;
      const kinds = [
        "recv",
        "mark",
        "free",
        "filling",
        "filled",
        "idle",
        "spliceFromFile",
        "spliceToSocket",
        "write",
      ];
      for (const kind of counted ? [...kinds, "send"] : kinds) expect(killed(log)).toContain(kind);
    },
    30_000 + STEPS * 2000,
  );
});

const killed = (log: string): string[] =>
  existsSync(log) ? readFileSync(log, "utf8").trim().split("\n") : [];

interface Started {
  readonly process: WorkerProcess;
  readonly exited: Promise<void>;
}

/** A worker that is ready, and will be killed at this step after it has got its link; 0: it will not. */
function start(step: number, log: string): Promise<Started> {
  return new Promise((resolve) => {
    let gone = (): void => {};
    const exited = new Promise<void>((settled) => {
      gone = settled;
    });
    process.env["STEP_KILL"] = String(step);
    process.env["STEP_LOG"] = log;
    const worker: WorkerProcess = startWorker(
      { stderr: "inherit", directory: join(directory, "workers"), workerPath: WORKER },
      { ready: () => resolve({ process: worker, exited }), exited: () => gone() },
    );
  });
}

async function settleWhile(kernel: Kernel, link: HeldLink): Promise<void> {
  const settlement = await whileTurning(kernel, link.settle());
  expect(settlement).toMatchObject({ safe: true });
}

/** The kernel's side goes on meanwhile. */
async function whileTurning<T>(kernel: Kernel, waited: Promise<T>): Promise<T> {
  let done = false;
  const finished = waited.finally(() => {
    done = true;
  });
  finished.catch(() => {});
  while (!done) await turnOnce(kernel);
  return finished;
}

async function turnOnce(kernel: Kernel): Promise<void> {
  kernel.turn();
  await turn();
}
