/**
 * Records that are brought up to date when no reads wait: hundreds of them take longer than the takeovers that they are about.
 *
 * For what a later manager can do without (counters, the last outcome); what it needs is written before the act, by whoever acts.
 * Owned by the manager.
 */
import type { ManagedDevice } from "../../supervisor/managed-device.ts";

/** A record waits no longer than this for other devices to be served again. */
const UNREST_MS = 1000;

export interface LateRecordsOptions {
  /** Whether reads of some device wait for us. */
  readonly isBusy: () => boolean;
  /** Writes a device's record. Never rejects. */
  readonly write: (device: ManagedDevice) => Promise<void>;
}

export class LateRecords {
  readonly #options: LateRecordsOptions;
  readonly #changed = new Set<ManagedDevice>();
  /** The end of the waiting for a calm moment. */
  #unrest: NodeJS.Timeout | undefined;

  constructor(options: LateRecordsOptions) {
    this.#options = options;
  }

  /** Something has come of a device that its record does not say. */
  note(device: ManagedDevice): void {
    this.#changed.add(device);
    this.look();
  }

  /** Reads of a device do not wait any more: it may have been the last one. */
  look(): void {
    if (this.#changed.size === 0) return;
    if (!this.#options.isBusy()) void this.write();
    else this.#unrest ??= setTimeout(() => void this.write(), UNREST_MS).unref();
  }

  /** Writes all that are behind, at once. */
  async write(): Promise<void> {
    clearTimeout(this.#unrest);
    this.#unrest = undefined;
    const behind = [...this.#changed];
    this.#changed.clear();
    await Promise.all(behind.map((device) => this.#options.write(device)));
  }
}
