/**
 * Whether what came from a worker is something that a worker says.
 *
 * Workers have fewer rights than their manager and look at images, clients and modules that others made: one that was
 * taken over must not take the manager with it. Shapes only; what may be believed is up to who asks.
 */
import * as z from "zod";
import { MAX_CONNECTIONS } from "../limits.ts";
import type { FromWorker } from "./messages.ts";

// By default zod compiles a parser for each schema. That takes longer than all checks of a short manager's life.
z.config({ jitless: true });

/** Far more than there can have been, and far from where counting on stops counting. */
const link = z
  .number()
  .int()
  .nonnegative()
  .max(2 ** 40);
const count = z
  .number()
  .nonnegative()
  .max(2 ** 80);
const words = z.string().max(65_536);

const schema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("ready"), leases: z.boolean().optional() }),
  z.object({ type: z.literal("reunion"), pid: z.number().int().min(2), links: link }),
  z.object({
    type: z.literal("held"),
    link,
    device: words,
    slot: link.max(MAX_CONNECTIONS - 1),
    copyOnly: z.boolean(),
    counted: z.boolean(),
    // A worker of a former version does not know: its requests tell.
    confirmed: z.boolean().optional(),
    lease: z.enum(["none", "fresh", "vouched"]).optional(),
  }),
  z.object({ type: z.literal("pong") }),
  z.object({
    type: z.literal("inspected"),
    sizeBytes: z.number().int().positive(),
    identity: words.nullable(),
  }),
  z.object({ type: z.literal("head"), piece: words }),
  z.object({ type: z.literal("uninspectable"), message: words }),
  z.object({ type: z.literal("serving"), link }),
  z.object({ type: z.literal("refused"), link, message: words }),
  z.object({ type: z.literal("released"), link }),
  z.object({
    type: z.literal("exactness"),
    link,
    exact: z.enum(["lease", "checked"]),
    change: words.nullable(),
    mtimeNs: z.string().regex(/^-?\d{1,30}$/),
  }),
  z.object({ type: z.literal("lease-over"), link }),
  z.object({ type: z.literal("first-request"), link }),
  z.object({ type: z.literal("read-error"), link, message: words, count }),
  z.object({
    type: z.literal("ended"),
    link,
    end: z.object({
      kind: z.enum(["disconnect", "end-of-file", "closed", "socket-error", "protocol-error", "source-error"]),
      message: words.optional(),
    }),
    counters: z.object({ requests: count, readBytes: count, readErrors: count }),
  }),
]);

export function isFromWorker(message: unknown): message is FromWorker {
  return schema.safeParse(message).success;
}
