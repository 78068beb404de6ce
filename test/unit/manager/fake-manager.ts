/** A manager without devices, for tests of the control socket: it records calls and gives the answers of the test. */
import { closeSync, readlinkSync } from "node:fs";
import { EventEmitter } from "eventemitter3";
import type { DeviceEvent, DeviceStatus } from "../../../src/control/protocol.ts";
import type { ManagerVitals } from "../../../src/control/vitals.ts";
import type { ControlledManager } from "../../../src/manager/control-server/control-server.ts";
import { type Borrower, Loans } from "../../../src/manager/loans.ts";
import type { ManagedDevice } from "../../../src/supervisor/managed-device.ts";

interface Events {
  event: (event: DeviceEvent) => void;
  idle: () => void;
}

export class FakeManager extends EventEmitter<Events> implements ControlledManager {
  readonly calls: string[] = [];
  /** Identifiers of the devices whose loans were settled. */
  readonly settled: string[] = [];
  /** What the descriptors that came with attaches were of. */
  readonly handed: string[] = [];
  /** Run by every call, before it answers: it may wait, or throw. */
  before: (call: string) => Promise<void> | void = () => {};
  statusAnswer: DeviceStatus[] = [];
  notes: string[] = [];

  /** The identifier of the device that was attached last: there is one index for all. */
  #attached = "";
  readonly #loans = new Loans({
    log: { info: () => {}, warn: () => {}, error: () => {} },
    isLeaving: () => false,
    settle: async (identifier) => void this.settled.push(identifier),
  });

  async attach(
    params: { image: string; forMount?: boolean },
    imageFd?: number,
    borrower?: Borrower,
  ): Promise<{ device: ManagedDevice; notes: readonly string[] }> {
    const identifier = `identifier of ${params.image}`;
    if (imageFd !== undefined) {
      this.handed.push(readlinkSync(`/proc/self/fd/${imageFd}`));
      closeSync(imageFd);
    }
    if (params.forMount === true && borrower !== undefined) this.#loans.lend(identifier, borrower);
    await this.#called(`attach ${params.image}`);
    this.#attached = identifier;
    await this.#loans.attached(identifier);
    const device = { index: 5, settings: { identifier } };
    return { device: device as unknown as ManagedDevice, notes: ["a note of the attach"] };
  }

  async mounted(index: number): Promise<void> {
    await this.#called(`mounted ${index}`);
    this.#loans.end(this.#attached);
  }

  borrowerGone(borrower: Borrower): Promise<void> {
    return this.#loans.closed(borrower);
  }

  async detach(targets: readonly unknown[], all: boolean, force: boolean): Promise<[]> {
    await this.#called(`detach ${JSON.stringify(targets)} ${all} ${force}`);
    return [];
  }

  async status(target: unknown): Promise<DeviceStatus[]> {
    await this.#called(`status ${JSON.stringify(target)}`);
    return this.statusAnswer;
  }

  async describe(): Promise<DeviceStatus> {
    return { index: 5 } as unknown as DeviceStatus;
  }

  cutLinks(index: number): void {
    this.calls.push(`cutLinks ${index}`);
  }

  async renewWorkers(): Promise<{ workers: number; links: number; longestStallMs: number }> {
    await this.#called("renewWorkers");
    return { workers: 2, links: 3, longestStallMs: 1.5 };
  }

  vitals(): ManagerVitals {
    return { pid: 1, version: "0", startedAt: "2026-01-01T00:00:00.000Z", residentBytes: 1, workers: [] };
  }

  takeNotes(): string[] {
    return this.notes.splice(0);
  }

  async #called(call: string): Promise<void> {
    this.calls.push(call);
    await this.before(call);
  }
}
