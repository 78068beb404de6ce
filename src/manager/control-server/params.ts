/**
 * The schema of the parameters of each request on the control socket; the types are in control/protocol.ts.
 */
import * as z from "zod";
import type { Method, Requests } from "../../control/protocol.ts";
import { MAX_CONNECTIONS, MAX_INDEX, MAX_TIMEOUT_SECONDS, MIN_HANG_TIMEOUT_MS } from "../../limits.ts";
import type { JsonValue } from "../../source/source-spec.ts";

/** For a module's options: they are sent with each link and written into the record. */
const MAX_OPTIONS_BYTES = 16_384;
const MAX_OPTIONS_DEPTH = 32;

const index = z.number().int().min(0).max(MAX_INDEX);
const seconds = z.number().int().min(0).max(MAX_TIMEOUT_SECONDS);
/** A superblock counts them in 16 bits. */
const MAX_EXTRA_DEVICES = 0xffff;

const path = z.string().startsWith("/").max(4096);
const digits = z
  .string()
  .max(42)
  .regex(/^\d+(:\d+)?$/);
const seen = z.strictObject({
  view: z.string().max(200).nullable(),
  file: z.strictObject({ device: digits, inode: digits }).nullable(),
});
const target = z.union([
  z.strictObject({ index }),
  z.strictObject({ identifier: z.string().min(1).max(200) }),
  z.strictObject({ path, seen: seen.optional() }),
]);
const nothing = z.strictObject({});
/** It is JSON, since it was parsed from that. */
const moduleOptions = z.custom<JsonValue>(isSmall, `must be JSON of at most ${MAX_OPTIONS_BYTES} bytes`);

/** By method. */
export const PARAMS: { readonly [M in Method]: z.ZodType<Requests[M]["params"]> } = {
  hello: nothing,
  watch: nothing,
  renew: nothing,
  stepDown: nothing,
  attach: z.strictObject({
    image: path,
    module: z.strictObject({ options: moduleOptions, view: z.string().max(200).optional() }).optional(),
    interface: z.enum(["netlink", "ioctl", "any"]),
    index: index.nullable(),
    connections: z.number().int().min(1).max(MAX_CONNECTIONS),
    blockSizeBytes: z
      .number()
      .int()
      .min(512)
      .max(65_536)
      .refine((size) => (size & (size - 1)) === 0, "must be a power of two")
      .nullable(),
    timeoutSeconds: seconds,
    deadTimeoutSeconds: seconds,
    ioTimeoutMs: z
      .number()
      .int()
      .min(1)
      .max(MAX_TIMEOUT_SECONDS * 1000),
    hangTimeoutMs: z
      .number()
      .int()
      .min(MIN_HANG_TIMEOUT_MS)
      .max(MAX_TIMEOUT_SECONDS * 1000),
    forMount: z.boolean(),
    part: z
      .strictObject({
        offsetBytes: z.number().int().min(0),
        extraDevices: z.number().int().min(0).max(MAX_EXTRA_DEVICES).optional(),
        extraOf: z.string().min(1).max(200).optional(),
      })
      .optional(),
  }),
  mounted: z.strictObject({ index }),
  detach: z.strictObject({ targets: z.array(target).max(4096), all: z.boolean(), force: z.boolean() }),
  status: z.strictObject({ target: target.nullable() }),
  cutLinks: z.strictObject({ index }),
};

/** Whether a value is neither deep nor long. Without recursion, since a peer may nest values to any depth. */
function isSmall(value: unknown): boolean {
  if (value === undefined) return false;
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > MAX_OPTIONS_DEPTH || level.length > MAX_OPTIONS_BYTES) return false;
    level = level.flatMap((one) => (typeof one === "object" && one !== null ? Object.values(one) : []));
  }
  return Buffer.byteLength(JSON.stringify(value)) <= MAX_OPTIONS_BYTES;
}
