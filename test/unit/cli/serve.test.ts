/**
 * serve as a user runs it: the image's bytes over a unix socket and TCP, where it refuses to listen, what it leaves.
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { MiniNbdClient, type MiniNbdTarget } from "../../helpers/nbd/mini-nbd-client.ts";
import { type RunningCli, runCli, startCli } from "./run-cli.ts";

/** Not whole blocks: serve pads nothing. */
const BYTES = randomBytes(70_001);
let directory = "";
let image = "";
const at = (name: string): string => join(directory, name);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-serve-"));
  image = at("image");
  writeFileSync(image, BYTES);
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

async function ready(command: RunningCli): Promise<string> {
  return (await command.until("stderr", /^serving .+ at (\S+)\n/m))[1] ?? "";
}

async function expectBytes(target: MiniNbdTarget, exportName = ""): Promise<void> {
  const client = await MiniNbdClient.open(target, { exportName });
  expect(client.sizeBytes).toBe(BYTES.length);
  expect(await client.read(0, BYTES.length)).toEqual(BYTES);
  expect(await client.read(BYTES.length - 1, 1)).toEqual(BYTES.subarray(-1));
  await client.disconnect();
}

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = await listening({ host: "127.0.0.1", port: 0 });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("No port");
  return address.port;
}

function listening(options: { path: string } | { host: string; port: number }): Promise<Server> {
  const server = createServer((socket) => socket.destroy());
  return new Promise((resolve) => server.listen(options, () => resolve(server)));
}

test("--json says what is served as soon as clients can connect", async () => {
  const command = startCli(["serve", "--json", "--socket", at("s"), "--name", "x", image]);
  const [text] = await command.until("stdout", /^\{[^}]+\}\n/);
  expect(JSON.parse(text)).toEqual({
    uri: `nbd+unix:///x?socket=${at("s")}`,
    image,
    sizeBytes: BYTES.length,
    exact: expect.stringMatching(/^(lease|checked)$/),
    export: "x",
    pid: expect.any(Number),
  });
  await expectBytes({ path: at("s") }, "x");
  command.child.kill("SIGTERM");
  expect((await command.ended).code).toBe(0);
});

describe("on a unix socket", () => {
  test.each(["SIGINT", "SIGTERM"] as const)(
    "serves the image as it is; %s stops it and removes the socket",
    async (signal) => {
      const command = startCli(["serve", "--socket", at("s"), "--name", "the image", image]);
      expect(await ready(command)).toBe(`nbd+unix:///the%20image?socket=${at("s")}`);
      await expectBytes({ path: at("s") }, "the image");
      command.child.kill(signal);
      expect(await command.ended).toMatchObject({ code: 0, stdout: "" });
      expect(existsSync(at("s"))).toBe(false);
    },
  );

  test("a socket that a dead server left is replaced", async () => {
    const first = startCli(["serve", "--socket", at("s"), image]);
    await ready(first);
    first.child.kill("SIGKILL");
    await first.ended;
    expect(existsSync(at("s"))).toBe(true);
    const second = startCli(["serve", "--socket", at("s"), image]);
    await ready(second);
    await expectBytes({ path: at("s") });
    second.child.kill("SIGINT");
    expect((await second.ended).code).toBe(0);
  });

  test("one that is in use, and a file, are refused and left alone", async () => {
    const server = await listening({ path: at("s") });
    const used = await runCli(["serve", "--socket", at("s"), image]);
    expect(used).toMatchObject({
      code: 2,
      stderr: expect.stringContaining(`cannot listen on ${at("s")}: another server`),
    });
    expect(statSync(at("s")).isSocket()).toBe(true);
    await new Promise((resolve) => server.close(resolve));
    const file = await runCli(["serve", "--socket", image, image]);
    expect(file).toMatchObject({ code: 2, stderr: expect.stringContaining("it exists and is not a socket") });
    expect(readFileSync(image)).toEqual(BYTES);
  });

  test("a directory that is not there and a path that is too long are refused in one line", async () => {
    const nowhere = await runCli(["serve", "--socket", at("nowhere/s"), image]);
    expect(nowhere).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^erofs-nbd: cannot listen on .*: the directory/),
    });
    const long = await runCli(["serve", "--socket", at("x".repeat(120)), image]);
    expect(long).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^erofs-nbd: cannot use socket path .* longer/),
    });
  });
});

describe("on TCP", () => {
  test("serves the image; a second server on that port is refused", async () => {
    const port = await freePort();
    const command = startCli(["serve", "--listen", `127.0.0.1:${port}`, image]);
    expect(await ready(command)).toBe(`nbd://127.0.0.1:${port}/`);
    await expectBytes({ host: "127.0.0.1", port });
    const second = await runCli(["serve", "--listen", `127.0.0.1:${port}`, image]);
    expect(second).toMatchObject({
      code: 2,
      stderr: expect.stringContaining(`cannot listen on 127.0.0.1:${port}: the address is in use`),
    });
    command.child.kill("SIGINT");
    expect((await command.ended).code).toBe(0);
  });

  test("an IPv6 address goes into brackets", async () => {
    const port = await freePort();
    const command = startCli(["serve", "--listen", `[::1]:${port}`, image]);
    expect(await ready(command)).toBe(`nbd://[::1]:${port}/`);
    await expectBytes({ host: "::1", port });
    command.child.kill("SIGINT");
    expect((await command.ended).code).toBe(0);
  });
});

test("-v tells of clients that come and go", async () => {
  const command = startCli(["-v", "serve", "--socket", at("s"), image]);
  await ready(command);
  await expectBytes({ path: at("s") });
  await command.until("stderr", /^info: A client's link ended/m);
  command.child.kill("SIGINT");
  expect((await command.ended).code).toBe(0);
});
