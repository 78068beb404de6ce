/**
 * Acceptor: connections come through, and a process without free descriptors turns them away instead of spinning.
 */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { close } from "../../../../src/sys/libc/files.ts";
import { Acceptor } from "../../../../src/sys/sockets/acceptor.ts";
import { listenUnix } from "../../../../src/sys/sockets/listen.ts";

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "acceptor-"));
});

afterEach(() => rmSync(directory, { recursive: true }));

test("every connection is handed over, non-blocking; after close nobody listens", async () => {
  const path = join(directory, "socket");
  const fds: number[] = [];
  let wake = (): void => {};
  const acceptor = new Acceptor(listenUnix(path), {
    connection: (fd) => {
      fds.push(fd);
      if (fds.length === 3) wake();
    },
    trouble: (message) => expect.unreachable(message),
  });
  const three = new Promise<void>((resolve) => {
    wake = resolve;
  });
  const clients = [0, 1, 2].map(() => createConnection(path));
  await three;
  acceptor.close();
  for (const fd of fds) close(fd);
  await Promise.all(clients.map((client) => once(client.resume(), "close")));
  const [error] = (await once(createConnection(path), "error")) as [NodeJS.ErrnoException];
  expect(error.code).toBe("ECONNREFUSED");
});

test("without free descriptors a connection is cut off and said, and later ones come through again", () => {
  const script = fileURLToPath(new URL("./acceptor-starved.mjs", import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [script, join(directory, "socket")], {
    encoding: "utf8",
    timeout: 60_000,
  });
  expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
  expect(JSON.parse(stdout)).toEqual({ turnedAway: 1, complaint: "EMFILE", served: 1 });
});
