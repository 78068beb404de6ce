/**
 * Records on disk: one JSON file for each device, named by its identifier. Used by the manager.
 *
 * A record is written before the act that it announces: to a temporary file, fsync, rename, fsync of the directory. An
 * unchanged record is not written again. Records are notes: the kernel is asked before anything is done with a device.
 * They hold no secrets. A file that is not a valid record is reported and left alone.
 */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { lstat, open, rename, rm, unlink } from "node:fs/promises";
import { join } from "node:path";
import { explainFileError } from "../../control/run-dir.ts";
import { ErofsNbdError } from "../../errors.ts";
import { effectiveUid } from "../../sys/libc/processes.ts";
import { identifyProcess, type ProcessIdentity } from "../../sys/process-identity.ts";
import { type DeviceRecord, type NewRecord, RECORD_VERSION } from "./record.ts";
import { parseRecord } from "./record-schema.ts";

/** Room for the longest path and options, many times over. */
const MAX_RECORD_BYTES = 1 << 20;

/** A file as it was when it was written. */
interface Written {
  readonly text: string;
  readonly inode: number;
}

export class RecordStore {
  readonly #directory: string;
  readonly #bootId: string;
  readonly #manager: ProcessIdentity;
  /** The last write or removal of each record: they are done one at a time, in the order of the calls. */
  readonly #pending = new Map<string, Promise<void>>();
  /** What is surely on disk, by identifier. */
  readonly #written = new Map<string, Written>();

  constructor(directory: string) {
    this.#directory = directory;
    this.#bootId = currentBootId();
    this.#manager = identifyProcess(process.pid) ?? { pid: process.pid, startTime: "0" };
  }

  /** The record is on disk when this resolves; on failure the former one is. @throws ErofsNbdError ERR_RUN_DIR */
  write(record: NewRecord): Promise<void> {
    return this.#inOrder(record.identifier, () => this.#write(record));
  }

  remove(identifier: string): Promise<void> {
    return this.#inOrder(identifier, async () => {
      this.#written.delete(identifier);
      await rm(this.#path(identifier), { force: true });
    });
  }

  /** Waits for all writes and removals so far. Their failures are thrown to their callers only. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#pending.values());
  }

  async #inOrder(identifier: string, work: () => Promise<void>): Promise<void> {
    const last = (this.#pending.get(identifier) ?? Promise.resolve()).catch(() => {}).then(work);
    this.#pending.set(identifier, last);
    try {
      await last;
    } finally {
      if (this.#pending.get(identifier) === last) this.#pending.delete(identifier);
    }
  }

  async #write(record: NewRecord): Promise<void> {
    const whole: DeviceRecord = {
      version: RECORD_VERSION,
      bootId: this.#bootId,
      manager: this.#manager,
      ...record,
    };
    const text = `${JSON.stringify(whole, null, 1)}\n`;
    const { identifier } = record;
    if (await this.#isOnDisk(identifier, text)) return;
    this.#written.delete(identifier);
    const inode = await this.#replace(this.#path(identifier), text);
    await syncDirectory(this.#directory);
    this.#written.set(identifier, { text, inode });
  }

  /** Whether the file is the one that was written last, with this text, and was synced. */
  async #isOnDisk(identifier: string, text: string): Promise<boolean> {
    const written = this.#written.get(identifier);
    if (written?.text !== text) return false;
    const found = await lstat(this.#path(identifier)).catch(() => undefined);
    return found?.isFile() === true && found.ino === written.inode && found.size === Buffer.byteLength(text);
  }

  /** Returns the inode of the new file. */
  async #replace(path: string, text: string): Promise<number> {
    const temporary = `${path}.new`;
    try {
      // A link that lies there must not be written through.
      await unlink(temporary).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
      });
      const file = await open(temporary, "wx", 0o600);
      let inode: number;
      try {
        await file.writeFile(text);
        await file.sync();
        inode = (await file.stat()).ino;
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      return inode;
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => {});
      const why = explainFileError(error);
      throw new ErofsNbdError("ERR_RUN_DIR", `cannot write a device record in ${this.#directory}: ${why}`, {
        hint: "make room there, or name another run directory with --run-dir",
        cause: error,
      });
    }
  }

  /**
   * All records: of this boot, of former boots (stale), and the paths of files that are not valid records. Removes
   * the temporary files of managers that were killed while they wrote: what they announced had not begun.
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
    return parseRecord(readOwnFile(path));
  } catch {
    // The caller reports the file; the reason does not matter.
    return undefined;
  }
}

/** A regular file of this user and of a bounded size. Follows no link and does not wait for a FIFO. */
function readOwnFile(path: string): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const found = fstatSync(fd);
    if (!found.isFile() || found.uid !== effectiveUid() || found.size > MAX_RECORD_BYTES)
      throw new Error(`cannot use ${path}: not a file of this user, or too large`);
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
