/**
 * Reads a record from its JSON text, with every number checked. Records of former versions are read, too.
 *
 * Used by record-store.ts. Pure.
 */
import * as z from "zod";
import { DEFAULT_HANG_TIMEOUT_MS, MAX_CONNECTIONS, MAX_INDEX, MAX_TIMEOUT_SECONDS } from "../../limits.ts";
import type { JsonValue } from "../../source/source-spec.ts";
import type { DeviceHistory } from "../../supervisor/managed-device.ts";
import type { FileHandle } from "../../sys/files/file-handle.ts";
import type { ProcessIdentity } from "../../sys/process-identity.ts";
import { NO_COUNTERS } from "../../worker-protocol/link-end.ts";
import { type DeviceRecord, RECORD_VERSION } from "./record.ts";

const processSchema: z.ZodType<ProcessIdentity> = z.object({
  pid: z.number().int().positive(),
  startTime: z.string(),
});

const NO_HISTORY: DeviceHistory = {
  past: NO_COUNTERS,
  failovers: { takeovers: 0, reconnects: 0, failedFailovers: 0, handovers: 0 },
  lastFailover: null,
};

const count = z.number().nonnegative();
const bytes = z.number().int().nonnegative();
const seconds = z.number().int().min(0).max(MAX_TIMEOUT_SECONDS);
const milliseconds = z
  .number()
  .int()
  .min(0)
  .max(MAX_TIMEOUT_SECONDS * 1000);
const historySchema: z.ZodType<DeviceHistory> = z.object({
  past: z.object({ requests: count, readBytes: count, readErrors: count }),
  failovers: z.object({ takeovers: count, reconnects: count, failedFailovers: count, handovers: count }),
  lastFailover: z
    .object({
      result: z.enum(["recovered", "failed"]),
      level: z.enum(["takeover", "reconnect"]),
      // Missing in records of former versions.
      causeClass: z.enum(["worker-exit", "worker-hang", "link", "manager", "unknown"]).default("unknown"),
      cause: z.string(),
      stallMs: z.number(),
      at: z.string(),
      strandedReads: z.number(),
    })
    .nullable(),
});

const nanoseconds = z.string().regex(/^-?\d{1,30}$/);
const fileSchema = z.object({
  type: z.literal("file"),
  path: z.string(),
  // Left out where the path leads to the image, as in records of former versions.
  isHandedIn: z.literal(true).optional(),
  identity: z.object({
    kind: z.enum(["file", "block-device"]),
    device: z.string(),
    inode: z.string(),
    sizeBytes: bytes,
    mtimeNs: nanoseconds,
    // Missing in records of former versions, and where the file system or kernel does not have them.
    createdNs: nanoseconds.optional(),
    changedNs: nanoseconds.optional(),
    diskSequence: z
      .string()
      .regex(/^\d{1,20}$/)
      .optional(),
  }),
});
const moduleSchema = z.object({
  type: z.literal("module"),
  path: z.string(),
  view: z.string().optional(),
  // Any JSON: only the module knows what it means.
  options: z.custom<JsonValue>((value) => value !== undefined),
  sizeBytes: bytes,
  identity: z.string().nullable(),
});

const handleSchema: z.ZodType<FileHandle> = z.object({
  fileSystem: z.string().regex(/^\d{1,10}:\d{1,10}$/),
  type: z.number().int(),
  // MAX_HANDLE_SZ (linux/exportfs.h) in hexadecimal digits.
  bytes: z.string().regex(/^([0-9a-f]{2}){1,128}$/),
});

const recordSchema: z.ZodType<DeviceRecord> = z.object({
  version: z.literal(RECORD_VERSION),
  identifier: z.string().min(1),
  bootId: z.string(),
  interface: z.enum(["netlink", "ioctl"]),
  index: z.number().int().min(0).max(MAX_INDEX).nullable(),
  image: z.discriminatedUnion("type", [fileSchema, moduleSchema]),
  // Missing in records of former versions. A hint: a handle that is none must not cost the record.
  imageHandle: handleSchema.nullable().catch(null).default(null),
  sizeBytes: bytes,
  blockSizeBytes: bytes.positive(),
  connections: z.number().int().min(1).max(MAX_CONNECTIONS),
  timeoutSeconds: seconds,
  deadTimeoutSeconds: seconds,
  ioTimeoutMs: milliseconds,
  // Missing in records of former versions.
  hangTimeoutMs: milliseconds.default(DEFAULT_HANG_TIMEOUT_MS),
  autoclear: z.boolean(),
  extraOf: z.string().optional(),
  manager: processSchema,
  workers: z.array(processSchema),
  client: processSchema.nullable(),
  // Missing in records of former versions.
  lentTo: processSchema.nullable().default(null),
  history: historySchema.default(NO_HISTORY),
});

/** @throws Error on text that is not a record of a known version */
export const parseRecord = (text: string): DeviceRecord => recordSchema.parse(JSON.parse(text));
