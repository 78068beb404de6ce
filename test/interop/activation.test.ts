/**
 * `serve` on a socket that was passed to it: by clients of other projects that start their own server, by a shell, and
 * what it says about descriptors that will not do.
 */
import { execFile, spawn, spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { close } from "../../src/sys/libc/files.ts";
import { SOCK_STREAM, socketPair } from "../../src/sys/libc/sockets.ts";
import { listenTcp, listenUnix } from "../../src/sys/sockets/listen.ts";
import { patternAt } from "../helpers/images/sources.ts";
import { ensurePackages } from "../helpers/packages.ts";
import { freePort } from "../helpers/sockets/free-port.ts";

const run = promisify(execFile);
const CLI = fileURLToPath(new URL("../../dist/src/cli/main.cjs", import.meta.url));
const SIZE = 3_000_001;

let directory: string;
let image: string;
beforeAll(() => {
  ensurePackages(["libnbd-bin"]);
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-activation-"));
  image = join(directory, "image");
  writeFileSync(image, patternAt(0, SIZE));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Runs `serve` with a descriptor as number 3, in a shell that sets the variables for the process it becomes. */
function serveWith(
  fd: number,
  variables: string,
  ...args: string[]
): { code: number | null; stderr: string } {
  const command = `${variables} exec "$0" "$@"`;
  const { status, stderr } = spawnSync(
    "sh",
    ["-c", command, process.execPath, CLI, "serve", ...args, image],
    {
      stdio: ["ignore", "ignore", "pipe", fd],
      encoding: "utf8",
      timeout: 30_000,
    },
  );
  return { code: status, stderr };
}

describe("serve on a passed socket", () => {
  const server = (...args: string[]): string[] => ["[", process.execPath, CLI, "serve", ...args];

  test("is started by nbdinfo and nbdcopy", async () => {
    const { stdout } = await run("nbdinfo", ["--size", "--", ...server(image), "]"]);
    expect(stdout.trim()).toBe(`${SIZE}`);
    const copy = join(directory, "copy");
    await run("nbdcopy", ["--", ...server(image), "]", copy]);
    expect(readFileSync(copy).equals(patternAt(0, SIZE))).toBe(true);
  });

  test.each([
    [
      "a unix socket",
      () => listenUnix(join(directory, "passed.sock")),
      /^nbd\+unix:\/\/\/\?socket=\S*passed\.sock$/,
    ],
    ["an IPv4 address", async () => listenTcp("127.0.0.1", await freePort()), /^nbd:\/\/127\.0\.0\.1:\d+\/$/],
    ["an IPv6 address", async () => listenTcp("::1", await freePort("::1")), /^nbd:\/\/\[::1\]:\d+\/$/],
  ])("says where clients reach it: %s", async (_, listen, uri) => {
    const fd = await listen();
    try {
      const command = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"';
      const child = spawn("sh", ["-c", command, process.execPath, CLI, "serve", image], {
        stdio: ["ignore", "ignore", "pipe", fd],
      });
      const said = await new Promise<string>((resolve, reject) => {
        let text = "";
        child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
          text += chunk;
          const found = /^serving .* at (\S+)$/m.exec(text)?.[1];
          if (found !== undefined) resolve(found);
        });
        child.once("exit", () => reject(new Error(text)));
      });
      expect(said).toMatch(uri);
      expect((await run("nbdinfo", ["--size", said])).stdout.trim()).toBe(`${SIZE}`);
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGINT");
      expect(await ended).toBe(0);
    } finally {
      close(fd);
    }
  });

  const FOR_US = "LISTEN_PID=$$ LISTEN_FDS=1";
  test.each([
    ["a file", () => openSync(image, "r"), FOR_US, [], /descriptor 3 \(LISTEN_FDS\): it is no socket/],
    ["a connection", () => connected(), FOR_US, [], /descriptor 3 \(LISTEN_FDS\): it does not listen/],
    [
      "two sockets",
      () => listening(),
      "LISTEN_PID=$$ LISTEN_FDS=2",
      [],
      /2 sockets were passed .* expected one/,
    ],
    ["an option beside it", () => listening(), FOR_US, ["--socket", "/x"], /an option names another one/],
    ["another process's", () => listening(), "LISTEN_PID=1 LISTEN_FDS=1", [], /name one of --socket/],
  ])("refuses %s", (_, open, variables, args, why) => {
    const fd = open();
    try {
      const { code, stderr } = serveWith(fd, variables, ...args);
      expect(stderr).toMatch(why);
      expect(code).toBe(1);
    } finally {
      closeSync(fd);
    }
  });

  let sockets = 0;
  const listening = (): number => listenUnix(join(directory, `refused-${sockets++}.sock`));
  function connected(): number {
    const [one, other] = socketPair(SOCK_STREAM);
    close(other);
    return one;
  }
});
