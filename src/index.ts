/// <reference types="node" preserve="true" />
/**
 * The public interface of the library: re-exports only. Importing it is cheap; code is loaded by the first call.
 *
 * `attach`, `find` and `list` use the machine's manager, `NbdManager` is a manager inside of the program. A custom
 * source is a module that exports an `OpenCustomSource`. The client of the kernel's nbd family is `erofs-nbd/netlink`.
 */

export { ControlError } from "./control/fault.ts";
export type { DeviceEvent, DeviceStatus } from "./control/protocol.ts";
export {
  type AnyErrorCode,
  ErofsNbdError,
  type ErrorCode,
  EXIT,
  type ExitCode,
  exitCodeOf,
} from "./errors.ts";
export { attach, type MachineAttachOptions } from "./library/attach.ts";
export type { AttachedDevice, AttachedDeviceEvents } from "./library/attached-device.ts";
export { type DeviceTarget, type FindOptions, find, list } from "./library/find.ts";
export {
  NbdManager,
  type NbdManagerEvents,
  type NbdManagerOptions,
  type StopOptions,
} from "./library/nbd-manager.ts";
export type { AttachOptions, AttachSource, SourceModule } from "./library/options.ts";
export type { Log } from "./log/log.ts";
export type { CustomSource, OpenCustomSource } from "./source/module-source.ts";
export type { JsonValue } from "./source/source-spec.ts";
export type { DeviceState } from "./supervisor/device-state.ts";
export type { DeviceCounters, FailoverOutcome } from "./supervisor/managed-device.ts";
export { VERSION } from "./version.ts";
