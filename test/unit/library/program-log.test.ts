/** program-log.ts: the loggers that programs have, each with its own order of arguments. */
import { pino } from "pino";
import { expect, test } from "vitest";
import { asLog } from "../../../src/library/program-log.ts";

test("a pino logger gets message and fields, and the other arguments of its own stay", () => {
  const lines: string[] = [];
  const logger = pino({ level: "debug" }, { write: (line: string) => void lines.push(line) });
  const log = asLog(logger.child({ part: "disk" }));
  log.info("Started worker 7", { workerPid: 7 });
  log.warn("It is slow");
  log.debug?.("detail", { a: 1 });
  const read = lines.map((line) => JSON.parse(line));
  expect(read).toMatchObject([
    { level: 30, msg: "Started worker 7", workerPid: 7, part: "disk" },
    { level: 40, msg: "It is slow" },
    { level: 20, msg: "detail", a: 1 },
  ]);
});

test("a logger that takes the message first is used as it is", () => {
  const log = { info: () => {}, warn: () => {}, error: () => {} };
  expect(asLog(log)).toBe(log);
  expect(asLog(console)).toBe(console);
});
