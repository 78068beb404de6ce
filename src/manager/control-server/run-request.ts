/**
 * Runs one checked request of a control connection: which method calls what of the manager.
 */
import { type DeviceEvent, type Method, PROTOCOL, type Requests } from "../../control/protocol.ts";
import { VERSION } from "../../version.ts";
import type { Borrower } from "../loans.ts";
import type { Manager } from "../manager.ts";

/** The part of a manager that the control socket reaches. */
export interface ControlledManager
  extends Pick<
    Manager,
    | "attach"
    | "mounted"
    | "borrowerGone"
    | "detach"
    | "status"
    | "describe"
    | "takeNotes"
    | "vitals"
    | "cutLinks"
    | "renewWorkers"
  > {
  on(event: "event", listener: (event: DeviceEvent) => void): unknown;
  off(event: "event", listener: (event: DeviceEvent) => void): unknown;
}

/** Ends the manager's process so that another manager can go on; see daemon.ts. */
export type StepDown = () => Promise<{ readonly auto: boolean }>;

/** Where a request comes from, and what it can reach. */
export interface RequestScope {
  readonly manager: ControlledManager;
  readonly stepDown: StepDown;
  /** The connection, for devices that are lent to it. */
  readonly borrower: Borrower;
  /** Sends the manager's events on the connection from now on. */
  readonly watch: () => void;
}

/** `params` fit the method's schema. Takes `imageFd` over. @throws ErofsNbdError, NetlinkError */
export async function runRequest(
  method: Method,
  params: unknown,
  imageFd: number | undefined,
  { manager, stepDown, borrower, watch }: RequestScope,
): Promise<Requests[Method]["result"]> {
  switch (method) {
    case "hello":
      return { version: VERSION, pid: process.pid, takesDescriptors: true, protocol: PROTOCOL };
    case "attach": {
      const wanted = params as Requests["attach"]["params"];
      const { device, notes } = await manager.attach(wanted, imageFd, borrower);
      return { device: await manager.describe(device), notes: [...manager.takeNotes(), ...notes] };
    }
    case "mounted": {
      const { index } = params as Requests["mounted"]["params"];
      await manager.mounted(index);
      return {};
    }
    case "detach": {
      const { targets, all, force } = params as Requests["detach"]["params"];
      return { results: await manager.detach(targets, all, force) };
    }
    case "status": {
      const { target } = params as Requests["status"]["params"];
      const devices = await manager.status(target);
      return { devices, notes: manager.takeNotes(), manager: manager.vitals() };
    }
    case "renew":
      return manager.renewWorkers();
    case "stepDown":
      return stepDown();
    case "cutLinks": {
      const { index } = params as Requests["cutLinks"]["params"];
      manager.cutLinks(index);
      return {};
    }
    case "watch":
      watch();
      return {};
  }
}
