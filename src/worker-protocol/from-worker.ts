/**
 * Checks the messages of workers: one schema per message. Used by the manager; workers never load it.
 *
 * Workers have fewer rights than their manager, and they process images, requests and modules of others. A compromised
 * worker must not be able to take over or crash the manager. Only shapes are checked here. Whether the content is
 * plausible is for the receiver to check.
 */
import * as z from "zod";
import { MAX_CONNECTIONS } from "../limits.ts";
import type { FromWorker } from "./messages.ts";

// By default zod compiles a parser for each schema. That takes longer than all checks of a short manager's life.
z.config({ jitless: true });

/** Far above any real link number, and exact as a floating-point number. */
const link = z
  .number()
  .int()
  .nonnegative()
  .max(2 ** 40);
const count = z
  .number()
  .nonnegative()
  .max(2 ** 80);
const text = z.string().max(65_536);

const plainEnd = z.object({ kind: z.enum(["disconnect", "end-of-file", "closed"]) });
const failedEnd = z.object({
  kind: z.enum(["socket-error", "protocol-error", "source-error"]),
  message: text,
});

type MessageOf<T extends FromWorker["type"]> = Extract<FromWorker, { readonly type: T }>;

/** By the message's type. The compiler compares each schema with the type in messages.ts. */
const SCHEMAS: { readonly [T in FromWorker["type"]]: z.ZodType<MessageOf<T>> } = {
  ready: z.object({
    type: z.literal("ready"),
    leases: z.boolean().optional(),
    offers: z.boolean().optional(),
  }),
  reunion: z.object({ type: z.literal("reunion"), pid: z.number().int().min(2), links: link }),
  held: z.object({
    type: z.literal("held"),
    link,
    device: text,
    slot: link.max(MAX_CONNECTIONS - 1),
    copyOnly: z.boolean(),
    counted: z.boolean(),
    confirmed: z.boolean().optional(),
    lease: z.enum(["none", "fresh", "vouched"]).optional(),
  }),
  pong: z.object({ type: z.literal("pong") }),
  head: z.object({ type: z.literal("head"), piece: text }),
  inspected: z.object({
    type: z.literal("inspected"),
    sizeBytes: z.number().int().positive(),
    identity: text.nullable(),
  }),
  uninspectable: z.object({ type: z.literal("uninspectable"), message: text }),
  serving: z.object({ type: z.literal("serving"), link }),
  refused: z.object({ type: z.literal("refused"), link, message: text }),
  released: z.object({ type: z.literal("released"), link }),
  exactness: z.object({
    type: z.literal("exactness"),
    link,
    exact: z.enum(["lease", "checked"]),
    change: text.nullable(),
    mtimeNs: z.string().regex(/^-?\d{1,30}$/),
  }),
  "lease-over": z.object({ type: z.literal("lease-over"), link }),
  "first-request": z.object({ type: z.literal("first-request"), link }),
  "read-error": z.object({ type: z.literal("read-error"), link, message: text, count }),
  ended: z.object({
    type: z.literal("ended"),
    link,
    end: z.union([plainEnd, failedEnd]),
    counters: z.object({ requests: count, readBytes: count, readErrors: count }),
  }),
};

const someMessage = z.looseObject({ type: z.string() });

export function isFromWorker(message: unknown): message is FromWorker {
  const type = someMessage.safeParse(message).data?.type;
  if (type === undefined || !Object.hasOwn(SCHEMAS, type)) return false;
  return SCHEMAS[type as FromWorker["type"]].safeParse(message).success;
}
