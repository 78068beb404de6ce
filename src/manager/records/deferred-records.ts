/**
 * Updates of records that can wait until no reads wait: writing hundreds of them takes longer than the takeovers that
 * they are about.
 *
 * Owned by the manager. Used for what a later manager can do without (counters, the last outcome). What it needs is
 * written before the act that it announces, by the code that acts.
 */
import type { ManagedDevice } from "../../supervisor/managed-device.ts";

/** A record waits no longer than this for other devices to recover. */
const MAX_DELAY_MS = 1000;

export interface DeferredRecordsOptions {
  /** Whether reads of any device wait for this manager. */
  readonly isBusy: () => boolean;
  /** Writes a device's record. Never rejects. */
  readonly write: (device: ManagedDevice) => Promise<void>;
}

export class DeferredRecords {
  readonly #options: DeferredRecordsOptions;
  readonly #changed = new Set<ManagedDevice>();
  #deadline: NodeJS.Timeout | undefined;

  constructor(options: DeferredRecordsOptions) {
    this.#options = options;
  }

  /** The device's record is out of date. */
  note(device: ManagedDevice): void {
    this.#changed.add(device);
    this.look();
  }

  /** To be called when a device serves again: it may have been the last one that reads waited for. */
  look(): void {
    if (this.#changed.size === 0) return;
    if (!this.#options.isBusy()) void this.write();
    else this.#deadline ??= setTimeout(() => void this.write(), MAX_DELAY_MS).unref();
  }

  /** Writes all records that are out of date, now. */
  async write(): Promise<void> {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    const changed = [...this.#changed];
    this.#changed.clear();
    await Promise.all(changed.map((device) => this.#options.write(device)));
  }
}
