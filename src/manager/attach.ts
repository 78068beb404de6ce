/**
 * One attach, from the request to a device that can be read.
 *
 * Called by the manager. Opens and checks the source, chooses between netlink and ioctl, and has the device attach
 * itself (supervisor/netlink-device.ts, supervisor/ioctl/ioctl-device.ts), which also writes its record. On failure
 * everything is undone before the error is returned.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { AttachParams, DeviceEvent } from "../control/protocol.ts";
import { ErofsNbdError } from "../errors.ts";
import type { NbdControl } from "../kernel/nbd-control.ts";
import { backendOf, configuringThread, deviceNumber } from "../kernel/sysfs.ts";
import type { Log } from "../log/log.ts";
import type { PoolOptions } from "../pool/worker-pool.ts";
import type { OpenImage } from "../source/open-image.ts";
import { paddedSizeBytes } from "../source/padded-source.ts";
import { type SourceSpec, sourceSizeBytes, sourceUri } from "../source/source-spec.ts";
import type { DeviceSettings, ManagedDevice } from "../supervisor/managed-device.ts";
import { fileHandleOf } from "../sys/files/file-handle.ts";
import { close } from "../sys/libc/files.ts";
import { randomUuid } from "../sys/random.ts";
import { openSource, sourceName } from "./attach-source.ts";
import type { DeviceFactory } from "./create-device.ts";
import { eventOf } from "./device-events.ts";
import type { Devices } from "./devices.ts";
import { deviceAt } from "./find-device.ts";
import type { Borrower, Loans } from "./loans.ts";

export interface AttacherContext {
  readonly log: Log;
  readonly devices: Devices;
  readonly loans: Loans;
  readonly kernel: NbdControl;
  /** For the worker that inspects a source module. */
  readonly workers: PoolOptions;
  readonly factory: DeviceFactory;
  /** Gives the image to the devices that wait for it, and returns their indexes. */
  readonly returnImage: (image: OpenImage) => Promise<number[]>;
  readonly tell: (event: DeviceEvent) => void;
}

export interface Attached {
  readonly device: ManagedDevice;
  /** Lines for the user. */
  readonly notes: readonly string[];
}

type Interface = "netlink" | "ioctl";

const SETTLED_POLL_MS = 20;

export class Attacher {
  readonly #context: AttacherContext;
  #underWay = 0;

  constructor(context: AttacherContext) {
    this.#context = context;
  }

  /** Whether an attach has begun and is not answered yet. */
  get isUnderWay(): boolean {
    return this.#underWay > 0;
  }

  /** Takes `imageFd` over. @throws ErofsNbdError, NetlinkError */
  async attach(
    params: AttachParams,
    imageFd: number | undefined,
    borrower: Borrower | undefined,
  ): Promise<Attached> {
    this.#underWay += 1;
    try {
      return await this.#attach(params, imageFd, borrower);
    } finally {
      this.#underWay -= 1;
    }
  }

  async #attach(
    params: AttachParams,
    imageFd: number | undefined,
    borrower: Borrower | undefined,
  ): Promise<Attached> {
    const { log, devices, loans, workers, factory, tell } = this.#context;
    const source = await openSource(params, imageFd, workers);
    const { fd, spec } = source;
    let device: ManagedDevice | undefined;
    try {
      const revived = await this.#reviveWaiting(params, fd, spec);
      if (revived !== undefined) {
        close(fd);
        return revived;
      }
      const { blockSizeBytes, notes } = source.inspect();
      if (params.index !== null) this.#refuseBusy(params.index, spec);
      const settings = toSettings(params, spec, blockSizeBytes);
      const { how, notes: fallbackNotes } = await this.#chooseInterface(params);
      const name = sourceName(spec);
      log.debug?.(`Attaching ${name}`, { interface: how, ...settings });
      if (params.forMount && borrower !== undefined) loans.lend(settings.identifier, borrower);
      const handle = spec.type === "file" ? fileHandleOf(fd) : undefined;
      device = factory.create(how, settings, { spec, fd, blockSizeBytes, handle });
      const index = await device.attach(params.index ?? undefined);
      log.info(`Attached ${name} to nbd${index}`, { index, identifier: settings.identifier });
      tell(eventOf(device, { event: "attached", image: name }));
      await loans.attached(settings.identifier);
      return { device, notes: [...notes, ...fallbackNotes] };
    } catch (error) {
      // A device closes the descriptor when it is released.
      if (device === undefined) close(fd);
      else await devices.released(device);
      throw error;
    }
  }

  /**
   * Gives an image back to the devices that lost it and wait for it (adoption/leftover-device.ts). Such a device is
   * the answer to the attach, unless it is wanted for a mount or at another index.
   */
  async #reviveWaiting(params: AttachParams, fd: number, spec: SourceSpec): Promise<Attached | undefined> {
    if (spec.type !== "file") return undefined;
    const revived = await this.#context.returnImage({ fd, spec });
    const wanted = revived.find((index) => !params.forMount && index === (params.index ?? index));
    if (wanted === undefined) return undefined;
    const device = await this.#failoverEnd(wanted);
    return { device, notes: [`nbd${wanted} was waiting for this image, and goes on with it`] };
  }

  /** Waits until a failover has succeeded or failed. @throws ErofsNbdError ERR_NOT_ATTACHED when the device ends */
  async #failoverEnd(index: number): Promise<ManagedDevice> {
    const { devices } = this.#context;
    while (["taking-over", "reconnecting"].includes(deviceAt(devices.all, index).state))
      await sleep(SETTLED_POLL_MS);
    return deviceAt(devices.all, index);
  }

  async #chooseInterface(params: AttachParams): Promise<{ how: Interface; notes: readonly string[] }> {
    if (params.interface === "ioctl") return { how: "ioctl", notes: [] };
    try {
      await this.#context.kernel.open();
      return { how: "netlink", notes: [] };
    } catch (error) {
      const mayFallBack = params.interface === "any" && !params.forMount;
      if (!mayFallBack || !(error instanceof ErofsNbdError) || error.code !== "ERR_NO_NETLINK") throw error;
      const notes = [`${error.message}; attached by ioctl, which cannot reconnect a device`];
      return { how: "ioctl", notes };
    }
  }

  /** @throws ErofsNbdError ERR_IMAGE, ERR_DEVICE_BUSY */
  #refuseBusy(index: number, spec: SourceSpec): void {
    const isItself = spec.type === "file" && spec.identity.kind === "block-device";
    if (isItself && spec.identity.device === deviceNumber(index)) {
      throw new ErofsNbdError(
        "ERR_IMAGE",
        `cannot attach ${spec.path} to nbd${index}: the image is the device itself`,
      );
    }
    if (configuringThread(index) === undefined) return;
    const own = this.#context.devices.all.find((device) => device.index === index);
    const backend = backendOf(index);
    const foreign = backend ? `by another program, with identifier ${backend}` : "by another program";
    const use = own === undefined ? foreign : `with ${sourceUri(own.image.spec)}`;
    throw new ErofsNbdError("ERR_DEVICE_BUSY", `cannot attach to nbd${index}: it is in use ${use}`, {
      hint: "omit --device, and the kernel picks a free one",
    });
  }
}

function toSettings(params: AttachParams, spec: SourceSpec, blockSizeBytes: number): DeviceSettings {
  return {
    identifier: randomUuid(),
    sizeBytes: paddedSizeBytes(sourceSizeBytes(spec), blockSizeBytes),
    connections: params.interface === "ioctl" ? 1 : params.connections,
    timeoutSeconds: params.timeoutSeconds,
    deadTimeoutSeconds: params.deadTimeoutSeconds,
    ioTimeoutMs: params.ioTimeoutMs,
    hangTimeoutMs: params.hangTimeoutMs,
    extraOf: params.part?.extraOf,
    autoclear: false,
  };
}
