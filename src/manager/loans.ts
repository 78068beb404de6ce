/**
 * Devices that are lent to a mounting command: each loan from before the attach until the mount is reported.
 *
 * Owned by the manager; it is the only place that knows of loans. A loan ends when its mount is reported or its
 * device ends. It is settled (keep the device if it is mounted, detach it if not) when the connection that it was
 * made over closes. A loan of a former manager has no connection: it is settled when the borrowing process exits. The
 * device's record names that process, so that every later manager can wait for it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { faultOf } from "../control/fault.ts";
import { isExclusivelyHeld, mountPointsOf } from "../kernel/sysfs.ts";
import type { Log } from "../log/log.ts";
import type { ManagedDevice } from "../supervisor/managed-device.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../sys/process-identity.ts";

/** A connection that devices can be lent to, with the pid of its peer. Compared by identity. */
export interface Borrower {
  readonly pid: number;
}

export interface LoansContext {
  readonly log: Log;
  /** True once this manager makes way for another: what is not settled by then is left to the next manager. */
  readonly isLeaving: () => boolean;
  /** Keeps or detaches a device whose mount was not reported. */
  readonly settle: (identifier: string) => Promise<void>;
}

interface Loan {
  /** Null when the process had exited before it could be identified. */
  readonly process: ProcessIdentity | null;
  /** Undefined for a loan of a former manager. */
  readonly borrower: Borrower | undefined;
  isAttached: boolean;
}

const BORROWER_POLL_MS = 250;

export class Loans {
  readonly #context: LoansContext;
  /** By the identifier of the device. */
  readonly #loans = new Map<string, Loan>();
  readonly #closed = new WeakSet<Borrower>();

  constructor(context: LoansContext) {
    this.#context = context;
  }

  /** Begins a loan. Called before the attach, so that the first record of the device names the borrower. */
  lend(identifier: string, borrower: Borrower): void {
    const process = identifyProcess(borrower.pid) ?? null;
    this.#loans.set(identifier, { process, borrower, isAttached: false });
  }

  /** For the device's record. */
  processOf(identifier: string): ProcessIdentity | null {
    return this.#loans.get(identifier)?.process ?? null;
  }

  /** To be called when the attach has succeeded: its connection may have closed in the meantime. */
  async attached(identifier: string): Promise<void> {
    const loan = this.#loans.get(identifier);
    if (loan === undefined) return;
    loan.isAttached = true;
    if (loan.borrower !== undefined && this.#closed.has(loan.borrower)) await this.#settle(identifier);
  }

  /** Ends a loan without settling it: the mount was reported, or the device has ended. */
  end(identifier: string): void {
    this.#loans.delete(identifier);
  }

  /** Settles the loans of a connection that has closed; those still being attached when that is done. */
  async closed(borrower: Borrower): Promise<void> {
    this.#closed.add(borrower);
    for (const [identifier, loan] of [...this.#loans]) {
      if (loan.borrower === borrower && loan.isAttached) await this.#settle(identifier);
    }
  }

  /** Continues a loan of a former manager: the process may still report the mount, or exit without. */
  async continue(device: ManagedDevice, process: ProcessIdentity): Promise<void> {
    const { identifier } = device.settings;
    const loan: Loan = { process, borrower: undefined, isAttached: true };
    this.#loans.set(identifier, loan);
    const isLent = (): boolean => this.#loans.get(identifier) === loan && !this.#context.isLeaving();
    // Settling may have to open the device, which must not happen while its reads wait.
    while (isLent() && (isAlive(process) || device.state !== "serving"))
      await sleep(BORROWER_POLL_MS, undefined, { ref: false });
    if (isLent()) await this.#settle(identifier);
  }

  async #settle(identifier: string): Promise<void> {
    const { log, isLeaving, settle } = this.#context;
    // The loan is kept, and with it the borrower in the record: the next manager settles it.
    if (isLeaving()) return;
    this.#loans.delete(identifier);
    await settle(identifier).catch((error: unknown) => log.error(faultOf(error).message));
  }
}

/** Keeps a device until its last close if it is mounted, and detaches it if it is not. */
export async function keepIfMounted(device: ManagedDevice, log: Log): Promise<void> {
  const { index } = device;
  if (index === undefined) return;
  const isMounted = (await mountPointsOf(index)).length > 0 || (await isExclusivelyHeld(index));
  log.warn(
    `nbd${index}: the mounting command ended without reporting a mount: ` +
      (isMounted ? "it is mounted, kept" : "it is not mounted, detaching"),
  );
  await (isMounted ? device.enableAutoclear() : device.detach());
}
