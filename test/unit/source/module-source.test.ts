/**
 * Source modules, through the real pool and workers of the build: good ones, bad ones, ones that end
 * or hang the worker. Tests with a device of a kernel are in test/kernel/guest/examples.test.ts.
 */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { inspectModule } from "../../../src/pool/source-inspector.ts";
import { WorkerPool } from "../../../src/pool/worker-pool.ts";
import { pathView } from "../../../src/source/path-view.ts";
import type { JsonValue, ModuleSourceSpec } from "../../../src/source/source-spec.ts";
import type { LinkObserver, OpenLink } from "../../../src/supervisor/ports.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { expected, SIZE, SOURCE } from "../../helpers/images/module-text.ts";
import { linkRequest } from "../../helpers/link-request.ts";
import { MiniNbdClient } from "../../helpers/nbd/mini-nbd-client.ts";
import { endPool, WORKER_PATH } from "../../helpers/processes/built-worker.ts";
import { until } from "../../helpers/until.ts";

// Processes have to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 60_000 });

const EIO = 5;
let directory: string;
let pool: WorkerPool | undefined;
const open: OpenLink[] = [];
const fds: number[] = [];

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-source-"));
  // For workers, which are an ordinary user where the test is root; and a file that they may write into.
  chmodSync(directory, 0o755);
  for (const name of ["workers", "journals"]) mkdirSync(join(directory, name));
  writeFileSync(join(directory, "log"), "");
  chmodSync(join(directory, "log"), 0o666);
});
afterEach(async () => {
  for (const link of open.splice(0)) link.close();
  for (const fd of fds.splice(0)) close(fd);
  if (pool !== undefined) await endPool(pool);
  pool = undefined;
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const options = () => ({
  stderr: "ignore" as const,
  workerPath: WORKER_PATH,
  directory: join(directory, "workers"),
  journals: join(directory, "journals"),
});

function write(text: string, name = "source.mjs"): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  return path;
}

async function inspect(path: string, value: JsonValue = {}, headBytes = 16): Promise<ModuleSourceSpec> {
  const { fd, spec } = await inspectModule(path, value, headBytes, options());
  fds.push(fd);
  return spec;
}

const NEVER = new AbortController().signal;

interface Served {
  readonly link: OpenLink;
  readonly client: MiniNbdClient;
  readonly losses: string[];
  readonly errors: string[];
}

async function serve(spec: ModuleSourceSpec, signal = NEVER): Promise<Served> {
  pool ??= new WorkerPool({ ...options(), size: 2 }, { log: () => {} });
  pool.fill();
  const losses: string[] = [];
  const errors: string[] = [];
  const observer: LinkObserver = {
    firstRequest: () => {},
    readErrors: (message) => errors.push(message),
    orphaned: (cause) => losses.push(cause),
    moved: () => {},
    ended: () => {},
  };
  const fd = fds.at(-1) as number;
  const link = await pool.openLink(linkRequest({ spec, fd }, { hangTimeoutMs: 1500 }), observer, signal);
  open.push(link);
  return { link, client: await MiniNbdClient.open({ fd: link.kernelFd }), losses, errors };
}

describe("a source module", () => {
  test("is inspected by a worker, which is gone afterwards", async () => {
    const path = write(SOURCE);
    const found = await inspectModule(path, { identity: "v1" }, 65_536, options());
    close(found.fd);
    expect(found.spec).toEqual({
      type: "module",
      path,
      view: pathView(),
      options: { identity: "v1" },
      sizeBytes: SIZE,
      identity: "v1",
    });
    expect(expected(0, 65_536).equals(found.head)).toBe(true);
  });

  test("serves reads of any size, with padding behind its end, and is closed with its link", async () => {
    const log = join(directory, "log");
    const { client, link } = await serve(await inspect(write(SOURCE), { log }));
    expect((await client.read(1000, 5000)).equals(expected(1000, 5000))).toBe(true);
    expect((await client.read(0, SIZE)).equals(expected(0, SIZE))).toBe(true);
    const last = await client.read(Math.floor(SIZE / 512) * 512, 512);
    expect(last.equals(Buffer.concat([expected(299_520, 480), Buffer.alloc(32)]))).toBe(true);
    link.close();
    await until("it is closed", () => readFileSync(log, "utf8").endsWith("close\n"));
  });

  test("that throws, or fills less than asked, is an I/O error for that read alone", async () => {
    const spec = await inspect(write(SOURCE), { failAt: 4096, shortAt: 8192 });
    const { client, errors } = await serve(spec);
    expect((await client.request(0, 4096, 512)).errno).toBe(EIO);
    expect((await client.request(0, 8192, 512)).errno).toBe(EIO);
    expect((await client.read(0, 512)).equals(expected(0, 512))).toBe(true);
    await until("both are told, the second with the first's interval or at once", () => errors.length >= 1);
    expect(errors[0]).toBe(`cannot read ${spec.path} at 4096: no luck at 4096`);
  });

  test("goes on in another worker when its own is killed, with reads on the way", async () => {
    const { link, client, losses } = await serve(await inspect(write(SOURCE)));
    const first = link.workerPid;
    process.kill(first, "SIGSTOP");
    const reads = Array.from({ length: 20 }, (_, at) => client.read(at * 4096, 4096));
    process.kill(first, "SIGKILL");
    await until("the death", () => losses.length === 1);
    expect(await link.takeOver(NEVER, () => {})).toMatchObject({ safe: true });
    const found = await Promise.all(reads);
    for (const [at, data] of found.entries()) expect(data.equals(expected(at * 4096, 4096))).toBe(true);
    expect(link.workerPid).not.toBe(first);
  });

  test("that hangs the whole worker is found, and so is one that ends it", async () => {
    const { client, losses } = await serve(await inspect(write(SOURCE), { spinAt: 4096, dieAt: 8192 }));
    client.request(0, 4096, 512).catch(() => {});
    await until("the hang is found", () => losses.length === 1);
    expect(losses[0]).toContain("stuck in a read of link");
    const other = await serve(await inspect(write(SOURCE), { dieAt: 8192 }));
    other.client.request(0, 8192, 512).catch(() => {});
    await until("the end is noticed", () => other.losses.length === 1);
    expect(other.losses[0]).toContain("exited with 3");
  });

  test("whose size or identity is another one in the next worker is not served", async () => {
    const path = write(SOURCE);
    const log = join(directory, "opened");
    writeFileSync(log, "");
    chmodSync(log, 0o666);
    const spec = await inspect(path, { identity: "v1", log });
    /** Ends the attempts once a worker has been asked for the second time, so the first has refused. */
    const refusal = async (changes: Partial<ModuleSourceSpec>): Promise<string> => {
      const stop = new AbortController();
      writeFileSync(log, "");
      const served = serve({ ...spec, ...changes }, stop.signal).catch((error: Error) => error.message);
      await until("two attempts", () => readFileSync(log, "utf8").split("open").length > 2);
      stop.abort();
      return `${await served}`;
    };
    expect(await refusal({ identity: "v2" })).toContain(
      `cannot serve ${path}: it had identity v2 when it was attached, and has v1 now`,
    );
    expect(await refusal({ sizeBytes: 5 })).toContain("it had 5 bytes");
  });

  test("is refused with the reason that one worker gave, while another is still asked", async () => {
    const log = join(directory, "opened-twice");
    writeFileSync(log, "open\n");
    chmodSync(log, 0o666);
    // Opened for the third time, it never is.
    const path = write(`
      import { appendFileSync, readFileSync } from "node:fs";
      export async function open() {
        appendFileSync(${JSON.stringify(log)}, "open\\n");
        if (readFileSync(${JSON.stringify(log)}, "utf8").split("open").length > 4) await new Promise(() => {});
        return { sizeBytes: 5, read() {} };
      }`);
    const spec = await inspect(path);
    const stop = new AbortController();
    const served = serve({ ...spec, sizeBytes: 6 }, stop.signal);
    const outcome = expect(served).rejects.toThrow("it had 6 bytes when it was attached, and has 5 now");
    await until("the second attempt", () => readFileSync(log, "utf8").split("open").length > 4);
    stop.abort();
    await outcome;
  });

  test("that is gone makes a takeover wait and say why; put back, it goes on", async () => {
    const path = write(SOURCE, "movable.mjs");
    const { link, client, losses } = await serve(await inspect(path));
    rmSync(path);
    process.kill(link.workerPid, "SIGKILL");
    await until("the death", () => losses.length === 1);
    const reasons: string[] = [];
    const taken = link.takeOver(NEVER, (why) => reasons.push(why));
    await until("the reason is told", () => reasons.length > 0);
    expect(reasons[0]).toMatch(/a worker does not take the link: cannot open source .*movable\.mjs: ENOENT/);
    write(SOURCE, "movable.mjs");
    expect(await taken).toMatchObject({ safe: true });
    expect((await client.read(0, 512)).equals(expected(0, 512))).toBe(true);
  });

  test("that was edited is loaded anew by a worker that had it before", async () => {
    const path = write(SOURCE, "edited.mjs");
    const spec = await inspect(path);
    pool = new WorkerPool({ ...options(), size: 1 }, { log: () => {} });
    await serve(spec);
    write(SOURCE.replace("% 251", "% 7"), "edited.mjs");
    // Two writes within one tick of the file system's clock would look the same.
    utimesSync(path, 1, statSync(path).mtimeMs / 1000 + 5);
    const { client } = await serve(spec);
    expect((await client.read(250, 4)).equals(Buffer.from([250 % 7, 251 % 7, 0, 1]))).toBe(true);
  });
});

test.runIf(process.getuid?.() === 0)(
  "a module runs without root's rights, and cannot get them back",
  async () => {
    const found = await inspect(
      write(`
      import { readFileSync } from "node:fs";
      const say = (act) => { try { act(); return "allowed"; } catch (error) { return error.code; } };
      export const open = () => ({
        sizeBytes: 1,
        read() {},
        identity: [
          process.getuid() !== 0, process.geteuid() !== 0, process.getgroups().includes(0),
          say(() => readFileSync("/etc/shadow")), say(() => process.setuid(0)),
          /^CapEff:\\s+0+$/m.test(readFileSync("/proc/thread-self/status", "utf8")),
          /^NoNewPrivs:\\s+1$/m.test(readFileSync("/proc/thread-self/status", "utf8")),
        ].join(" "),
      });`),
    );
    expect(found.identity).toBe("true true false EACCES EPERM true true");
  },
);
