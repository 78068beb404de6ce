/**
 * src/nbd against programs of other projects: their clients with our server, our client with their servers.
 *
 * Each part needs its program (libnbd-bin, qemu-utils, nbdkit, nbd-server) and is skipped by name without it.
 */

import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { readOnlyExport } from "../../../../src/nbd/handshake/export.ts";
import { type ClientGoal, ClientHandshake } from "../../../helpers/nbd/handshake-client.ts";
import { MiniNbdClient } from "../../../helpers/nbd/mini-nbd-client.ts";
import { type PlainNbdServer, servePlainly } from "../../../helpers/nbd/plain-nbd-server.ts";

// Other people's programs have to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 60_000 });

const run = promisify(execFile);
const has = (program: string): boolean => {
  try {
    execFileSync("sh", ["-c", `command -v ${program}`], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
};

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-interop-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

// A multiple of 512: qemu-img 7.2 rounds other sizes up, and hangs converting them without structured replies.
const content = Buffer.from(
  Uint32Array.from({ length: 300_032 }, (_, index) => (index * 2654435761) >>> 0).buffer,
);

describe("our server", () => {
  const path = join(directory, "ours.sock");
  let ours: PlainNbdServer;

  beforeEach(async () => {
    const exports = [
      readOnlyExport("first", content.length, "The first of two"),
      readOnlyExport("second", content.length),
    ];
    ours = await servePlainly(path, exports, content);
  });
  afterEach(() => ours.close());

  it.skipIf(!has("nbdinfo"))("is understood by nbdinfo", async () => {
    const one = JSON.parse((await run("nbdinfo", ["--json", `nbd+unix:///second?socket=${path}`])).stdout);
    expect(one).toMatchObject({ protocol: "newstyle-fixed", TLS: false, structured: false });
    expect(one.exports[0]).toMatchObject({
      "export-name": "second",
      is_read_only: true,
      can_multi_conn: true,
      "export-size": content.length,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 << 20,
    });
    const all = JSON.parse(
      (await run("nbdinfo", ["--json", "--list", `nbd+unix:///?socket=${path}`])).stdout,
    );
    expect(
      all.exports.map((each: Record<string, unknown>) => [each["export-name"], each["description"]]),
    ).toEqual([
      ["first", "The first of two"],
      ["second", undefined],
    ]);
    expect(ours.results.length).toBeGreaterThan(0);
  });

  it.skipIf(!has("nbdcopy"))("is copied byte for byte by nbdcopy over four connections", async () => {
    const copy = join(directory, "nbdcopy.out");
    await run("nbdcopy", [
      "--connections=4",
      "--threads=4",
      "--requests=16",
      `nbd+unix:///first?socket=${path}`,
      copy,
    ]);
    expect(readFileSync(copy).equals(content)).toBe(true);
    expect(ours.results.filter((result) => result.kind === "transmission").length).toBeGreaterThanOrEqual(4);
  });

  it.skipIf(!has("qemu-img"))("is copied byte for byte by qemu-img", async () => {
    const copy = join(directory, "qemu.out");
    await run("qemu-img", ["convert", "-f", "raw", "-O", "raw", `nbd+unix:///first?socket=${path}`, copy]);
    expect(readFileSync(copy).subarray(0, content.length).equals(content)).toBe(true);
  });

  it.skipIf(!has("nbdinfo"))("refuses an unknown export so that nbdinfo can tell", async () => {
    await expect(run("nbdinfo", [`nbd+unix:///third?socket=${path}`])).rejects.toThrow(
      /no export of that name|unknown|No such file/i,
    );
  });

  it.each(["go", "export-name"] as const)("serves the tests' own client by %s", async (option) => {
    const client = await MiniNbdClient.open({ path }, { exportName: "first", option });
    expect([client.sizeBytes, client.transmissionFlags]).toEqual([content.length, 0x103]);
    const ranges = Array.from({ length: 40 }, (_, index) => [index * 1013, 1 + index * 37] as const);
    const read = await Promise.all(ranges.map(([at, length]) => client.read(at, length)));
    for (const [index, [at, length]] of ranges.entries()) {
      expect(read[index]?.equals(content.subarray(at, at + length))).toBe(true);
    }
    expect(await client.request(1, 0, 100_000, { payload: new Uint8Array(100_000) })).toMatchObject({
      errno: 1,
    });
    expect(await client.request(0, content.length - 1, 2)).toMatchObject({ errno: 22 });
    expect(await client.request(0, 1n << 60n, 2)).toMatchObject({ errno: 22 });
    expect(await client.read(content.length - 1, 1)).toEqual(content.subarray(-1));
    await client.disconnect();
    await expect(client.read(0, 1)).rejects.toThrow("closed the connection");
  });
});

describe("our client", () => {
  const image = join(directory, "foreign.img");
  let child: ChildProcess | undefined;

  beforeAll(() => writeFileSync(image, content));
  afterEach(async () => {
    if (child?.exitCode === null && child.signalCode === null) {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
    child = undefined;
  });

  /** Starts a server and waits until it takes connections on `path`. */
  async function start(path: string, program: string, args: readonly string[]): Promise<void> {
    rmSync(path, { force: true });
    const started = spawn(program, args, { stdio: "ignore" });
    child = started;
    while (!existsSync(path) || !(await takesConnections(path))) {
      if (started.exitCode !== null) throw new Error(`${program} ended with ${started.exitCode}`);
      await nextTurn();
    }
  }

  it.skipIf(!has("nbdkit"))("goes, looks and lists at nbdkit", async () => {
    const path = join(directory, "nbdkit.sock");
    await start(path, "nbdkit", ["-f", "-r", "-U", path, "file", image]);
    const { client, socket } = await shake(path, { kind: "go", exportName: "" });
    socket.destroy();
    expect(client.result).toMatchObject({
      kind: "transmission",
      noZeroes: true,
      facts: { sizeBytes: content.length },
    });
    expect(client.remainder.length).toBe(0);
    const looked = await shake(path, { kind: "info", exportName: "" });
    expect(looked.client.result).toMatchObject({ kind: "info", facts: { sizeBytes: content.length } });
    const listed = await shake(path, { kind: "list" });
    expect(listed.client.result).toMatchObject({ kind: "list", exports: [{ name: "" }] });
  });

  it.skipIf(!has("nbdkit"))(
    "falls back to EXPORT_NAME at a newstyle nbdkit, and refuses an oldstyle one",
    async () => {
      const path = join(directory, "nbdkit-masked.sock");
      await start(path, "nbdkit", ["-f", "-r", "-U", path, "--mask-handshake=0", "file", image]);
      const masked = await shake(path, { kind: "go", exportName: "" });
      masked.socket.destroy();
      expect(masked.client.result).toMatchObject({
        kind: "transmission",
        noZeroes: false,
        facts: { sizeBytes: content.length },
      });
      child?.kill("SIGKILL");
      if (child !== undefined) await once(child, "exit");
      const oldPath = join(directory, "nbdkit-old.sock");
      await start(oldPath, "nbdkit", ["-f", "-r", "-o", "-U", oldPath, "file", image]);
      const old = await shake(oldPath, { kind: "go", exportName: "" });
      old.socket.destroy();
      expect(old.client.result).toMatchObject({ kind: "ended", reason: expect.stringContaining("oldstyle") });
    },
  );

  it.skipIf(!has("qemu-nbd"))("goes and lists at qemu-nbd, and hears why an export is refused", async () => {
    const path = join(directory, "qemu.sock");
    const args = ["-r", "-t", "-e", "4", "-f", "raw", "-x", "disk", "-D", "A disk", "-k", path, image];
    await start(path, "qemu-nbd", args);
    const { client, socket } = await shake(path, { kind: "go", exportName: "disk" });
    socket.destroy();
    expect(client.result).toMatchObject({
      kind: "transmission",
      facts: {
        sizeBytes: content.length,
        canonicalName: "disk",
        description: "A disk",
        blockSizes: { minimumBytes: 1 },
      },
    });
    expect((await shake(path, { kind: "list" })).client.result).toEqual({
      kind: "list",
      exports: [{ name: "disk", description: "A disk" }],
    });
    expect((await shake(path, { kind: "go", exportName: "tape" })).client.result).toMatchObject({
      kind: "ended",
      reason: expect.stringMatching(/^the server refused GO with ERR_UNKNOWN, no such export, saying '/),
    });
  });

  it.skipIf(!has("nbd-server"))("goes and lists at nbd-server", async () => {
    const path = join(directory, "nbd-server.sock");
    const config = join(directory, "nbd-server.conf");
    const address = `unixsock = ${path}\nlistenaddr = 127.0.0.1\nport = ${await freePort()}\n`;
    const disk = `[disk]\nexportname = ${image}\nreadonly = true\n`;
    writeFileSync(config, `[generic]\n${address}allowlist = true\n${disk}`);
    // With -d it stays in the foreground and serves one client only: no probing, one process each.
    for (const goal of [{ kind: "go", exportName: "disk" }, { kind: "list" }] as const) {
      rmSync(path, { force: true });
      const started = spawn("nbd-server", ["-d", "-C", config], { stdio: "ignore" });
      child = started;
      let shaken: Awaited<ReturnType<typeof shake>> | undefined;
      while (shaken === undefined) {
        if (started.exitCode !== null) throw new Error(`nbd-server ended with ${started.exitCode}`);
        await nextTurn();
        shaken = await shake(path, goal).catch((error: NodeJS.ErrnoException) => {
          if (error.code === "ENOENT" || error.code === "ECONNREFUSED") return undefined;
          throw error;
        });
      }
      shaken.socket.destroy();
      expect(shaken.client.result).toMatchObject(
        goal.kind === "go"
          ? { kind: "transmission", facts: { sizeBytes: content.length } }
          : { kind: "list", exports: [{ name: "disk" }] },
      );
      started.kill("SIGKILL");
      if (started.exitCode === null && started.signalCode === null) await once(started, "exit");
    }
  });
});

/** Runs a client's handshake over a unix socket until it is over. */
function shake(path: string, goal: ClientGoal): Promise<{ client: ClientHandshake; socket: Socket }> {
  const client = new ClientHandshake(goal);
  const socket = connect(path);
  return new Promise((resolve, reject) => {
    const finish = (): void => {
      if (client.result === undefined) return;
      if (client.result.kind !== "transmission") socket.end();
      resolve({ client, socket });
    };
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("the server closed before the handshake was over")));
    socket.on("data", (chunk) => {
      if (client.result !== undefined) return;
      socket.write(client.receive(chunk));
      finish();
    });
  });
}

function takesConnections(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A port on loopback that was free a moment ago: nbd-server listens on one whether we want it or not. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
