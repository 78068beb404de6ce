/**
 * Records on disk: what a later manager needs to know of a device. Notes, not truth: the kernel is asked first.
 *
 * One JSON file per device, named by its identifier, written before the act it announces: to a temporary file,
 * fsync, rename, fsync of the directory. No secrets. A file that cannot be understood is reported and left alone.
 */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { open, rename, rm, unlink } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { explainFileError } from "../../control/run-dir.ts";
import { ErofsNbdError } from "../../errors.ts";
import { DEFAULT_HANG_TIMEOUT_MS, MAX_CONNECTIONS, MAX_INDEX, MAX_TIMEOUT_SECONDS } from "../../limits.ts";
import type { JsonValue, SourceSpec } from "../../source/source-spec.ts";
import type { DeviceHistory, DeviceSettings } from "../../supervisor/managed-device.ts";
import { effectiveUid } from "../../sys/libc.ts";
import { identifyProcess, type ProcessIdentity } from "../../sys/process-identity.ts";
import { NO_COUNTERS } from "../../worker-protocol/link-end.ts";

const RECORD_VERSION = 1;
/** Room for the longest path and options, many times over. */
const MAX_RECORD_BYTES = 1 << 20;

export interface DeviceRecord {
  readonly version: typeof RECORD_VERSION;
  readonly identifier: string;
  readonly bootId: string;
  readonly interface: "netlink" | "ioctl";
  /** Unknown until the kernel has answered CONNECT; found again by the identifier. */
  readonly index: number | null;
  readonly image: SourceSpec;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly connections: number;
  readonly timeoutSeconds: number;
  readonly deadTimeoutSeconds: number;
  readonly ioTimeoutMs: number;
  readonly hangTimeoutMs: number;
  readonly autoclear: boolean;
  readonly manager: ProcessIdentity;
  /** Who serves, or is about to: the processes that hold server ends. */
  readonly workers: readonly ProcessIdentity[];
  /** The process inside NBD_DO_IT, for ioctl devices. */
  readonly client: ProcessIdentity | null;
  /** Who is about to mount it, and has not said yet that it is done. */
  readonly lentTo: ProcessIdentity | null;
  /** As of the last failover. */
  readonly history: DeviceHistory;
}

/** A record before the store adds what is the same for all. */
export type NewRecord = Omit<DeviceRecord, "version" | "bootId" | "manager">;

/** What a record says of how its device was attached. */
export function settingsOf(record: DeviceRecord): DeviceSettings {
  const { identifier, sizeBytes, connections, timeoutSeconds, deadTimeoutSeconds } = record;
  const { ioTimeoutMs, hangTimeoutMs, autoclear } = record;
  return {
    identifier,
    sizeBytes,
    connections,
    timeoutSeconds,
    deadTimeoutSeconds,
    ioTimeoutMs,
    hangTimeoutMs,
    autoclear,
  };
}

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
      // Former versions did not note it.
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
  // Where the path leads to the image it is left out, as in records of former versions.
  isHandedIn: z.literal(true).optional(),
  identity: z.object({
    kind: z.enum(["file", "block-device"]),
    device: z.string(),
    inode: z.string(),
    sizeBytes: bytes,
    mtimeNs: nanoseconds,
    // Former versions did not note them, and not every file system and kernel has them.
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
  // JSON, as all of the file is; what it means is the module's business.
  options: z.custom<JsonValue>((value) => value !== undefined),
  sizeBytes: bytes,
  identity: z.string().nullable(),
});

const recordSchema: z.ZodType<DeviceRecord> = z.object({
  version: z.literal(RECORD_VERSION),
  identifier: z.string().min(1),
  bootId: z.string(),
  interface: z.enum(["netlink", "ioctl"]),
  index: z.number().int().min(0).max(MAX_INDEX).nullable(),
  image: z.discriminatedUnion("type", [fileSchema, moduleSchema]),
  sizeBytes: bytes,
  blockSizeBytes: bytes.positive(),
  connections: z.number().int().min(1).max(MAX_CONNECTIONS),
  timeoutSeconds: seconds,
  deadTimeoutSeconds: seconds,
  ioTimeoutMs: milliseconds,
  // Records of the version before have none.
  hangTimeoutMs: milliseconds.default(DEFAULT_HANG_TIMEOUT_MS),
  autoclear: z.boolean(),
  manager: processSchema,
  workers: z.array(processSchema),
  client: processSchema.nullable(),
  // Former versions did not note it.
  lentTo: processSchema.nullable().default(null),
  history: historySchema.default(NO_HISTORY),
});

export class RecordStore {
  readonly #directory: string;
  readonly #bootId: string;
  readonly #manager: ProcessIdentity;
  /** The last thing to be done with each record: one at a time, in the order asked for. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(directory: string) {
    this.#directory = directory;
    this.#bootId = currentBootId();
    this.#manager = identifyProcess(process.pid) ?? { pid: process.pid, startTime: "0" };
  }

  /** Writes a record, or leaves the one that is there as it was. @throws ErofsNbdError ERR_RUN_DIR */
  write(record: NewRecord): Promise<void> {
    return this.#inTurn(record.identifier, () => this.#write(record));
  }

  /** After every write that was asked for before. */
  remove(identifier: string): Promise<void> {
    return this.#inTurn(identifier, async () => {
      await rm(this.#path(identifier), { force: true });
    });
  }

  /** Waits for all writes and removals that were asked for; what failed of them is told to who asked. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#turns.values());
  }

  async #inTurn(identifier: string, work: () => Promise<void>): Promise<void> {
    const turn = (this.#turns.get(identifier) ?? Promise.resolve()).catch(() => {}).then(work);
    this.#turns.set(identifier, turn);
    try {
      await turn;
    } finally {
      if (this.#turns.get(identifier) === turn) this.#turns.delete(identifier);
    }
  }

  async #write(record: NewRecord): Promise<void> {
    const whole: DeviceRecord = {
      version: RECORD_VERSION,
      bootId: this.#bootId,
      manager: this.#manager,
      ...record,
    };
    const path = this.#path(record.identifier);
    const temporary = `${path}.new`;
    try {
      // What may be there is never written through.
      await unlink(temporary).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
      });
      const file = await open(temporary, "wx", 0o600);
      try {
        await file.writeFile(`${JSON.stringify(whole, null, 1)}\n`);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => {});
      const why = explainFileError(error);
      throw new ErofsNbdError("ERR_RUN_DIR", `cannot write a device's record in ${this.#directory}: ${why}`, {
        hint: "make room there, or name another run directory with --run-dir",
        cause: error,
      });
    }
    await syncDirectory(this.#directory);
  }

  /**
   * Records of this boot, and the names of files that could not be read as one. Those of former boots are stale.
   * What a manager that died while writing left unfinished is cleared: what it announced had not begun.
   */
  load(): { records: DeviceRecord[]; stale: DeviceRecord[]; unreadable: string[] } {
    const records: DeviceRecord[] = [];
    const stale: DeviceRecord[] = [];
    const unreadable: string[] = [];
    for (const name of readdirSync(this.#directory)) {
      const path = join(this.#directory, name);
      if (name.endsWith(".json.new")) rmSync(path, { force: true, recursive: true });
      if (!name.endsWith(".json")) continue;
      const record = readRecord(path);
      if (record === undefined || this.#path(record.identifier) !== path) unreadable.push(path);
      else (record.bootId === this.#bootId ? records : stale).push(record);
    }
    return { records, stale, unreadable };
  }

  #path(identifier: string): string {
    return join(this.#directory, `${identifier}.json`);
  }
}

function readRecord(path: string): DeviceRecord | undefined {
  try {
    return recordSchema.parse(JSON.parse(readOwnFile(path)));
  } catch {
    // Whatever is wrong with it, the caller reports the file.
    return undefined;
  }
}

/** A regular file of ours, of a size that a record may have; never through a link, and never waiting for a FIFO. */
function readOwnFile(path: string): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { size, uid } = fstatSync(fd);
    if (!fstatSync(fd).isFile() || uid !== effectiveUid() || size > MAX_RECORD_BYTES)
      throw new Error(`cannot use ${path}: it is no record of ours`);
    return readFileSync(fd, "utf8");
  } finally {
    closeSync(fd);
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function currentBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
