/** The control socket against any input: each request is answered once, or the connection is cut. */
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { LineSplitter } from "../../src/control/line-splitter.ts";
import { toAttachParams } from "../../src/library/options.ts";
import { ControlServer } from "../../src/manager/control-server/control-server.ts";
import { PARAMS } from "../../src/manager/control-server/params.ts";
import { close } from "../../src/sys/libc/files.ts";
import { MSG_NOSIGNAL, SOCK_STREAM, sendmsg, socketPair } from "../../src/sys/libc/sockets.ts";
import { MessageHeader } from "../../src/sys/sockets/message-header.ts";
import { connectUnix } from "../helpers/sockets/connect-unix.ts";
import { openDescriptors } from "../helpers/sockets/descriptors.ts";
import { until } from "../helpers/until.ts";
import { RawPeer } from "../unit/manager/control-server/raw-peer.ts";
import { FakeManager } from "../unit/manager/fake-manager.ts";

let directory: string;
let path: string;
let server: ControlServer;
const bugs: string[] = [];

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-property-"));
  path = join(directory, "control.sock");
  server = new ControlServer(path, new FakeManager(), {
    info: () => {},
    warn: () => {},
    error: (message) => bugs.push(message),
  });
});
afterAll(() => {
  server.close();
  rmSync(directory, { recursive: true });
});

const SENTINEL = 1_000_000;

/**
 * Sends lines, then a valid request. Returns the answers to the lines, and whether the connection was cut before it.
 */
async function exchange(text: string): Promise<{ answers: RawPeer["answers"]; cut: boolean }> {
  const peer = await RawPeer.connect(path);
  try {
    peer.send(`${text}\n${JSON.stringify({ id: SENTINEL, method: "hello", params: {} })}\n`);
    const last = (): boolean => peer.answers.some(({ id }) => id === SENTINEL);
    await until("the last answer or the cut", () => peer.ended || last());
    return { answers: peer.answers.filter(({ id }) => id !== SENTINEL), cut: !last() };
  } finally {
    peer.close();
  }
}

const methods = fc.constantFrom(...Object.keys(PARAMS));
const almostRequests = fc.record(
  {
    id: fc.oneof(fc.integer({ min: 0, max: 100 }), fc.jsonValue()),
    method: fc.oneof({ weight: 4, arbitrary: methods }, { weight: 1, arbitrary: fc.string() }),
    params: fc.oneof(
      fc.jsonValue(),
      fc.record(
        {
          image: fc.string(),
          index: fc.oneof(fc.integer(), fc.constant(null)),
          target: fc.oneof(
            fc.constant(null),
            fc.record({ index: fc.integer() }),
            fc.record({ path: fc.string() }),
          ),
          targets: fc.array(fc.oneof(fc.record({ index: fc.integer() }), fc.jsonValue())),
          all: fc.boolean(),
          force: fc.boolean(),
        },
        { requiredKeys: [] },
      ),
    ),
  },
  { requiredKeys: [] },
);

test("any JSON: answered exactly once; invalid requests are cut off", async () => {
  await fc.assert(
    fc.asyncProperty(fc.oneof(almostRequests, fc.jsonValue()), async (value) => {
      const { answers, cut } = await exchange(JSON.stringify(value));
      expect(answers).toHaveLength(1);
      const [answer] = answers;
      expect(answer !== undefined && "result" in answer !== "error" in answer).toBe(true);
      if (cut) expect(answer?.error?.code).toBe("ERR_BAD_ARGUMENT");
      expect(answer?.error?.code).not.toBe("ERR_INTERNAL");
    }),
    { numRuns: 150 },
  );
  expect(bugs).toEqual([]);
  await until("all connections gone", () => server.connectionCount === 0);
});

test("any text: at most one answer for each line, and the server goes on", async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: "binary", maxLength: 200 }), async (text) => {
      const { answers, cut } = await exchange(text);
      expect(answers.length).toBeLessThanOrEqual(text.split("\n").length);
      if (cut) expect(answers.at(-1)?.error?.code).toBe("ERR_BAD_ARGUMENT");
    }),
    { numRuns: 100 },
  );
  expect((await exchange(JSON.stringify({ id: 1, method: "hello", params: {} }))).answers).toMatchObject([
    { id: 1, result: { pid: process.pid } },
  ]);
  expect(bugs).toEqual([]);
});

/** Valid and invalid requests with any number of descriptors, split anywhere. */
const lines = fc.array(
  fc.record({
    text: fc.oneof(
      fc.constant({ id: 1, method: "attach", params: toAttachParams("/a.erofs", {}) }),
      fc.constant({ id: 2, method: "hello", params: {} }),
      fc.constant({ id: 3, method: "attach", params: {} }),
      fc.jsonValue(),
    ),
    descriptors: fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom(0, 1) },
      { weight: 1, arbitrary: fc.integer({ min: 2, max: 253 }) },
    ),
    at: fc.nat({ max: 100 }),
  }),
  { minLength: 1, maxLength: 4 },
);

test("any descriptors with any lines: every attach gets its own or none, and none stays open", async () => {
  const files = [openSync(directory, "r"), openSync("/proc/self/stat", "r"), socketPair(SOCK_STREAM)].flat();
  const before = openDescriptors();
  await fc.assert(
    fc.asyncProperty(lines, async (sent) => {
      const fd = connectUnix(path, SOCK_STREAM);
      const peer = RawPeer.over(fd);
      try {
        for (const { text, descriptors, at } of sent) {
          const body = Buffer.from(`${JSON.stringify(text)}\n`);
          const cut = Math.min(at, body.length - 1);
          if (cut > 0)
            sendmsg(fd, new MessageHeader(0, false).toSend(body.subarray(0, cut), []), MSG_NOSIGNAL);
          const fds = Array.from(
            { length: descriptors },
            (_, index) => files[index % files.length] as number,
          );
          const header = new MessageHeader(fds.length, false);
          sendmsg(fd, header.toSend(body.subarray(cut), fds), MSG_NOSIGNAL);
        }
        peer.send(`${JSON.stringify({ id: SENTINEL, method: "hello", params: {} })}\n`);
        await until("the last answer or the cut", () => {
          return peer.ended || peer.answers.some(({ id }) => id === SENTINEL);
        });
        expect(peer.answers.every(({ error }) => error?.code !== "ERR_INTERNAL")).toBe(true);
      } finally {
        peer.close();
      }
      await until("the end of the connection", () => server.connectionCount === 0);
    }),
    { numRuns: 150 },
  );
  await until("only what was open before", () =>
    [...openDescriptors()].every(([fd, target]) => before.get(fd) === target),
  );
  for (const file of files) close(file);
  expect(bugs).toEqual([]);
});

test("lines are the same however the stream is split", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.array(fc.nat(), { maxLength: 8 }), (text, cuts) => {
      const bytes = Buffer.from(text);
      const lines: string[] = [];
      const splitter = new LineSplitter({ line: (line) => lines.push(line) });
      let from = 0;
      for (const at of [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b)) {
        splitter.push(bytes.subarray(from, at));
        from = at;
      }
      expect(lines).toEqual(bytes.toString("utf8").split("\n").slice(0, -1));
    }),
    { numRuns: 500 },
  );
});
