/**
 * The library's public face: re-exports alone.
 *
 * `Manager` attaches images and keeps them readable in the calling process; `ControlClient` talks to a manager that
 * runs already. The kernel's nbd family alone is `erofs-nbd/netlink`.
 */
export { ErofsNbdError, type ErrorCode, EXIT, type ExitCode, exitCodeOf } from "./errors.ts";
export type { Log } from "./log.ts";
export { ControlClient, ControlError } from "./manager/control-client.ts";
export type {
  AttachParams,
  DetachResult,
  DeviceEvent,
  DeviceStatus,
  Target,
} from "./manager/control-protocol.ts";
export { type Daemon, type DaemonOptions, runDaemon } from "./manager/daemon.ts";
export { Manager, type ManagerOptions } from "./manager/manager.ts";
export { chooseRunDir, prepareRunDir, type RunDir } from "./manager/run-dir.ts";
export { type Source, SourceError } from "./source/source.ts";
export type { DeviceState } from "./supervisor/device-state.ts";
export type { DeviceCounters, FailoverOutcome } from "./supervisor/managed-device.ts";
export { VERSION } from "./version.ts";
