/**
 * The running kernel's log, read record by record from /dev/kmsg. Used inside guests by the reporter and by the
 * leftover check; needs root. It never writes to the log and never consumes it for others: each open file has its
 * own position.
 */
import { closeSync, constants, openSync, readSync } from "node:fs";

/** One record (kernel: Documentation/ABI/testing/dev-kmsg). */
export interface KernelLogRecord {
  /** 0 emergency … 4 warning … 7 debug. */
  readonly level: number;
  readonly sequence: number;
  /** Since boot. */
  readonly timeUs: number;
  readonly text: string;
}

const RECORD_BYTES = 8_192;

/** A position in the kernel log that only moves forward. */
export class KernelLogReader {
  readonly #fd: number;
  readonly #buffer: Buffer = Buffer.alloc(RECORD_BYTES);

  /** Starts before the oldest record. */
  constructor() {
    this.#fd = openSync("/dev/kmsg", constants.O_RDONLY | constants.O_NONBLOCK);
  }

  /** Every record since the last call. */
  readNew(): KernelLogRecord[] {
    const records: KernelLogRecord[] = [];
    for (;;) {
      const length = this.#readRecord();
      if (length === undefined) return records;
      if (length > 0) records.push(parseRecord(this.#buffer.toString("utf8", 0, length)));
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Bytes of the next record, 0 when records were overwritten meanwhile, undefined at the end of the log. */
  #readRecord(): number | undefined {
    try {
      return readSync(this.#fd, this.#buffer, 0, RECORD_BYTES, null);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "EAGAIN") return undefined;
      if (code === "EPIPE") return 0;
      throw error;
    }
  }
}

/** The last `count` lines, as dmesg would print them; empty without /dev/kmsg. */
export function kernelLogTail(count: number): string {
  let reader: KernelLogReader;
  try {
    reader = new KernelLogReader();
  } catch {
    return ""; // no permission or no such node: the log is an extra, its absence must not hide a test's failure
  }
  try {
    return reader.readNew().slice(-count).map(formatRecord).join("\n");
  } finally {
    reader.close();
  }
}

/** As dmesg prints it. */
export function formatRecord(record: KernelLogRecord): string {
  return `[${(record.timeUs / 1e6).toFixed(6).padStart(12)}] ${record.text}`;
}

/** Format: `priority,sequence,microseconds,flags[,…];text\n KEY=value\n…` */
function parseRecord(raw: string): KernelLogRecord {
  const semicolon = raw.indexOf(";");
  const [priority, sequence, timeUs] = raw.slice(0, semicolon).split(",").map(Number);
  const text = raw.slice(semicolon + 1).split("\n")[0] ?? "";
  return { level: (priority ?? 0) & 7, sequence: sequence ?? 0, timeUs: timeUs ?? 0, text };
}
