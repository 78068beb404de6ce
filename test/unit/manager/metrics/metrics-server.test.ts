/** metrics-server.ts over real sockets: permissions, answers, and hostile peers. */
import { chmodSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { get, request as httpRequest, type RequestOptions } from "node:http";
import { createConnection, createServer, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseLoopbackAddress } from "../../../../src/manager/metrics/metrics-address.ts";
import { MetricsServer } from "../../../../src/manager/metrics/metrics-server.ts";
import { SOCK_STREAM } from "../../../../src/sys/libc/sockets.ts";
import { asNobody, canBeNobody } from "../../../helpers/processes/as-nobody.ts";
import { connectUnix } from "../../../helpers/sockets/connect-unix.ts";
import { freePort } from "../../../helpers/sockets/free-port.ts";
import { until } from "../../../helpers/until.ts";

let directory: string;
let socketPath: string;
let server: MetricsServer;
let rendered = 0;
let lines: string[] = [];
const log = {
  info: (message: string) => void lines.push(message),
  warn: (message: string) => void lines.push(message),
  error: (message: string) => void lines.push(message),
};
const render = (): string => {
  rendered += 1;
  return "# HELP a b\n# TYPE a gauge\na 1\n";
};

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "metrics-"));
  socketPath = join(directory, "metrics.sock");
  rendered = 0;
  lines = [];
  server = new MetricsServer({ socketPath, log, render });
});
afterEach(() => {
  server.close();
  rmSync(directory, { recursive: true, force: true });
});

interface Answer {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: string;
}

function ask(options: RequestOptions = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    httpRequest({ socketPath, path: "/metrics", agent: false, ...options }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      response.once("end", () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body }),
      );
    })
      .once("error", reject)
      .end();
  });
}

/** Sends raw bytes and returns all that comes until the end of the connection. */
function sendRaw(bytes: string | Buffer, socket = createConnection(socketPath)): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    socket.on("error", () => {});
    socket.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    socket.once("close", () => resolve(text));
    socket.write(bytes);
  });
}

describe("a scrape", () => {
  test("returns the text for GET, and only its headers for HEAD", async () => {
    const answer = await ask();
    expect(answer).toMatchObject({ status: 200, body: render() });
    expect(answer.headers["content-type"]).toBe("text/plain; version=0.0.4; charset=utf-8");
    const head = await ask({ method: "HEAD" });
    expect(head).toMatchObject({ status: 200, body: "" });
    expect(head.headers["content-length"]).toBe(answer.headers["content-length"]);
    expect((await ask({ path: "/metrics?x=1" })).status).toBe(200);
  });

  test("of another path, or by another method, is refused", async () => {
    expect((await ask({ path: "/" })).status).toBe(404);
    expect((await ask({ path: "/metrics/x" })).status).toBe(404);
    expect(await ask({ method: "POST" })).toMatchObject({ status: 405, headers: { allow: "GET, HEAD" } });
    expect(rendered).toBe(0);
  });

  test("soon after another one returns the same text", async () => {
    await Promise.all([...Array(10)].map(() => ask()));
    expect(rendered).toBeLessThan(3);
  });

  test("that cannot be rendered is answered with an error, and the next one is served", async () => {
    server.close();
    let fails = true;
    server = new MetricsServer({
      socketPath,
      log,
      render: () => {
        if (fails) throw new Error("no journal");
        return "fine\n";
      },
    });
    expect(await ask()).toMatchObject({ status: 500, body: "cannot render metrics: no journal\n" });
    fails = false;
    expect((await ask()).body).toBe("fine\n");
  });
});

describe("peers", () => {
  test("the socket is for its owner alone, and is removed with the server", () => {
    expect(statSync(socketPath).mode & 0o777).toBe(0o600);
    server.close();
    expect(() => statSync(socketPath)).toThrow("ENOENT");
  });

  test.runIf(canBeNobody)(
    "another user is cut off before its request is read, even if the file mode allows it",
    async () => {
      chmodSync(directory, 0o755);
      chmodSync(socketPath, 0o666);
      const fd = asNobody(() => connectUnix(socketPath, SOCK_STREAM));
      const peer = new Socket({ fd, readable: true, writable: true });
      expect(await sendRaw("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", peer)).toBe("");
      expect(rendered).toBe(0);
      expect(lines).toEqual([`Refused a metrics connection of process ${process.pid}, user 65534`]);
    },
  );

  test("a socket that a dead manager left is replaced", async () => {
    const other = new MetricsServer({ socketPath, log, render });
    expect((await ask()).status).toBe(200);
    other.close();
  });

  test("garbage, endless headers and bodies are cut off, and others are served", async () => {
    expect(await sendRaw("\0\x01\x02 garbage\r\n\r\n")).toContain("400");
    expect(await sendRaw(`GET /metrics HTTP/1.1\r\nX: ${"y".repeat(1 << 20)}`)).toContain("431");
    const body = `POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n${"z".repeat(1 << 20)}`;
    expect(await sendRaw(body)).toContain("405");
    expect((await ask()).status).toBe(200);
  });

  test("pipelined requests get one answer", async () => {
    const one = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    const text = await sendRaw(one.repeat(50));
    expect(text.match(/HTTP\/1\.1 200/g)).toHaveLength(1);
  });

  test("that send nothing are limited to sixteen connections", async () => {
    const silent: Socket[] = [];
    const closed = new Set<number>();
    for (let at = 0; at < 20; at += 1) {
      const socket = createConnection(socketPath);
      socket.on("error", () => {});
      socket.once("close", () => closed.add(at));
      silent.push(socket);
    }
    await until("four connections are refused", () => closed.size === 4);
    expect([...closed].sort()).toEqual([16, 17, 18, 19]);
    await expect(ask()).rejects.toThrow();
    for (const socket of silent) socket.destroy();
    await until(
      "a connection is accepted again",
      async () => (await ask().catch(() => undefined))?.status === 200,
    );
  });
});

describe("a loopback address", () => {
  const scrape = (port: number): Promise<number> =>
    new Promise((resolve, reject) => {
      get({ host: "127.0.0.1", port, path: "/metrics", agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      }).once("error", reject);
    });

  test("is served in addition to the socket", async () => {
    const port = await freePort();
    server.close();
    server = new MetricsServer({ socketPath, address: { host: "127.0.0.1", port }, log, render });
    await until("it listens", () => lines.some((line) => line.includes("offered at 127.0.0.1")));
    expect(await scrape(port)).toBe(200);
    expect((await ask()).status).toBe(200);
  });

  test("with all connections in use does not affect the socket", async () => {
    const port = await freePort();
    server.close();
    server = new MetricsServer({ socketPath, address: { host: "127.0.0.1", port }, log, render });
    await until("it listens", () => lines.some((line) => line.includes("offered at 127.0.0.1")));
    let closed = 0;
    const silent = Array.from({ length: 20 }, () =>
      createConnection({ host: "127.0.0.1", port })
        .on("error", () => {})
        .once("close", () => {
          closed += 1;
        }),
    );
    await until("four connections are refused", () => closed === 4);
    await expect(scrape(port)).rejects.toThrow();
    expect((await ask()).status).toBe(200);
    for (const socket of silent) socket.destroy();
    await until("a connection is accepted again", async () => (await scrape(port).catch(() => 0)) === 200);
  });

  test("that is in use is reported once, and used when it is free; the socket is served meanwhile", {
    timeout: 60_000,
  }, async () => {
    const port = await freePort();
    const other = createServer().listen(port, "127.0.0.1");
    await until("the port is taken", () => other.listening);
    server.close();
    server = new MetricsServer({ socketPath, address: { host: "127.0.0.1", port }, log, render });
    await until("it complains", () => lines.length > 0);
    expect(lines).toEqual([expect.stringMatching(/^cannot offer metrics at 127\.0\.0\.1:\d+ yet: /)]);
    expect((await ask()).status).toBe(200);
    await new Promise((resolve) => other.close(resolve));
    await until("it listens", () => lines.length > 1);
    expect(await scrape(port)).toBe(200);
    expect(lines).toHaveLength(2);
  });

  test.each([
    ["127.0.0.1:9809", { host: "127.0.0.1", port: 9809 }],
    ["127.9.9.9:1", { host: "127.9.9.9", port: 1 }],
    ["localhost:65535", { host: "127.0.0.1", port: 65_535 }],
    ["[::1]:9809", { host: "::1", port: 9809 }],
    ["[0:0:0:0:0:0:0:1]:80", { host: "0:0:0:0:0:0:0:1", port: 80 }],
  ])("%s is a loopback address", (text, address) => {
    expect(parseLoopbackAddress("--metrics-listen", text)).toEqual(address);
  });

  test.each([
    "",
    "9809",
    ":9809",
    "127.0.0.1",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "127.0.0.1:9x",
    "::1:9809",
    "[]:1",
  ])("'%s' is no address", (text) => {
    expect(() => parseLoopbackAddress("--metrics-listen", text)).toThrow("expected HOST:PORT");
  });

  test.each([
    "0.0.0.0:1",
    "[::]:1",
    "192.168.0.1:1",
    "127.0.0.1.nip.io:1",
    "128.0.0.1:1",
    "[::ffff:127.0.0.1]:1",
    "127.1:1",
  ])("%s is not a loopback address", (text) => {
    expect(() => parseLoopbackAddress("--metrics-listen", text)).toThrow("expected a loopback address");
  });
});
