/** worker-protocol/: which messages of workers are valid, and that workers do not load the schemas. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { isFromWorker } from "../../../src/worker-protocol/from-worker.ts";
import type { FromWorker } from "../../../src/worker-protocol/messages.ts";

const WORKER = fileURLToPath(new URL("../../../dist/src/worker/main.cjs", import.meta.url));
const counters = { requests: 1, readBytes: 512, readErrors: 0 };
const held = { link: 1, device: "a device", slot: 0, copyOnly: false, counted: true } as const;

test.each<FromWorker>([
  { type: "ready" },
  { type: "ready", leases: true },
  { type: "reunion", pid: 4712, links: 0 },
  { type: "held", ...held },
  { type: "held", ...held, confirmed: true, lease: "fresh" },
  { type: "pong" },
  { type: "head", piece: "AAAA" },
  { type: "inspected", sizeBytes: 4096, identity: null },
  { type: "uninspectable", message: "no such module" },
  { type: "serving", link: 1 },
  { type: "refused", link: 1, message: "EMFILE" },
  { type: "released", link: 1 },
  { type: "exactness", link: 1, exact: "lease", change: null, mtimeNs: "-12" },
  { type: "lease-over", link: 1 },
  { type: "first-request", link: 1 },
  { type: "read-error", link: 1, message: "EIO", count: 3 },
  { type: "ended", link: 1, end: { kind: "disconnect" }, counters },
  { type: "ended", link: 1, end: { kind: "socket-error", message: "EPIPE" }, counters },
])("$type is valid, and not without its fields", (message) => {
  expect(isFromWorker(message)).toBe(true);
  expect(isFromWorker({ ...message, type: "unknown" })).toBe(false);
  if (!["ready", "pong"].includes(message.type)) expect(isFromWorker({ type: message.type })).toBe(false);
});

test.each(["toString", "__proto__", "constructor", 5, null, undefined])(
  "no message has the type %s",
  (type) => {
    expect(isFromWorker({ type })).toBe(false);
  },
);

test("the program of a worker contains nothing of zod", () => {
  expect(readFileSync(WORKER, "utf8")).not.toMatch(/zod/i);
});
