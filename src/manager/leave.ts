/**
 * How a manager leaves its devices: by making way for another manager, by ending, or after a start that failed.
 *
 * Used by the manager. The devices stay in each case, served by their workers, which go on without a manager.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../errors.ts";
import type { NbdControl } from "../kernel/nbd-control.ts";
import type { WorkerPool } from "../pool/worker-pool.ts";
import type { Devices } from "./devices.ts";
import type { Observatory } from "./metrics/observatory.ts";
import type { DeferredRecords } from "./records/deferred-records.ts";
import type { RecordStore } from "./records/record-store.ts";

export interface LeavingContext {
  readonly devices: Devices;
  readonly pool: WorkerPool;
  readonly kernel: NbdControl;
  readonly records: RecordStore;
  readonly deferred: DeferredRecords;
  readonly observatory: Observatory;
}

const PATIENCE_MS = 10_000;
const POLL_MS = 20;
/** In these states a device needs nothing of this manager that another could not do. */
const LASTING_STATES: readonly string[] = ["serving", "failed", "stalled"];

export class Leaving {
  readonly #context: LeavingContext;
  readonly #work: (() => void)[] = [];
  #hasBegun = false;

  constructor(context: LeavingContext) {
    this.#context = context;
  }

  /** Calls `work` when this manager leaves, before its workers are let go. */
  before(work: () => void): void {
    this.#work.push(work);
  }

  #begin(): void {
    this.#hasBegun = true;
    for (const work of this.#work.splice(0)) work();
  }

  /** From then on this manager begins nothing new: it is left to the next one. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /**
   * Makes way for another manager: waits until no device is between two states, then changes nothing any more.
   * @throws ErofsNbdError ERR_CONTROL when devices do not settle in time
   */
  async stepDown(): Promise<void> {
    await this.#settled();
    this.#begin();
    this.#context.pool.leave();
    await this.#finishRecords();
    await this.#context.kernel.close();
  }

  /** Ends at once, as a killed manager would: for a start that has failed. Records are left as they are. */
  async abandon(): Promise<void> {
    this.#begin();
    this.#context.observatory.close();
    this.#context.pool.leave();
    await this.#context.kernel.close();
  }

  /** Lets go of workers and netlink. */
  async stop(): Promise<void> {
    this.#begin();
    this.#context.observatory.close();
    this.#context.pool.stop();
    await this.#finishRecords();
    await this.#context.kernel.close();
  }

  async #settled(): Promise<void> {
    const { devices } = this.#context;
    const end = performance.now() + PATIENCE_MS;
    while (devices.isReleasing || devices.all.some(({ state }) => !LASTING_STATES.includes(state))) {
      if (performance.now() > end) {
        throw new ErofsNbdError(
          "ERR_CONTROL",
          "cannot replace the manager: a device is in the middle of a change",
          { hint: "erofs-nbd status shows which one; try again when it has ended" },
        );
      }
      await sleep(POLL_MS);
    }
  }

  async #finishRecords(): Promise<void> {
    const { deferred, records } = this.#context;
    await deferred.write();
    await records.settled();
  }
}
