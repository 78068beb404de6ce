/**
 * The nbd driver as a device sees it: netlink commands and sysfs in one object, over real sockets.
 *
 * It keeps a duplicate of every socket it was given, as the kernel keeps a reference, and follows the driver's rules: a
 * fresh socket replaces the first dead one or is dropped with a success code; another identifier or a disconnected
 * device is EINVAL; DISCONNECT sends a disconnect request on every link. It throws if a device breaks a rule.
 */
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { type NbdConnectOptions, type NbdReconfigureOptions, NetlinkError } from "../../../netlink/index.ts";
import type { DeviceView } from "../../../src/kernel/device-view.ts";
import type { ConnectedDevice } from "../../../src/kernel/nbd-control.ts";
import type { ProbeResult } from "../../../src/kernel/probe.ts";
import type { MissingNode } from "../../../src/kernel/sysfs.ts";
import type { NbdCommands } from "../../../src/supervisor/ports.ts";
import { close, duplicate } from "../../../src/sys/libc/files.ts";
import { isHungUp, SHUT_RDWR, SOCK_STREAM, shutdown, socketPair } from "../../../src/sys/libc/sockets.ts";
import { holdersOf } from "../../helpers/sockets/descriptors.ts";
import type { FakeLink, FakeLinkServer } from "./fake-server.ts";

interface KernelSocket {
  /** The kernel's own reference. */
  fd: number;
  /** Undefined for a socket of a former manager, which only the kernel has. */
  link: FakeLink | undefined;
}

export function refusal(errno: number, command: string, index: number): NetlinkError {
  return new NetlinkError({
    code: "ERR_NETLINK_REFUSED",
    origin: "ack",
    purpose: `${command.toLowerCase()} nbd${index}`,
    command,
    errno,
    deviceIndex: index,
  });
}

export class FakeKernel implements NbdCommands, DeviceView {
  readonly index: number;
  readonly connects: NbdConnectOptions[] = [];
  readonly reconfigures: NbdReconfigureOptions[] = [];
  readonly ioTimeouts: number[] = [];
  sockets: KernelSocket[] = [];
  identifier: string | undefined;
  disconnectCount = 0;
  probeCount = 0;
  inFlight = 0;
  /** Whether the count of reads is kept. */
  iostats = true;
  /** Run inside the command, before it acts (`before`) and between the act and the answer (`after`). */
  hooks: {
    beforeConnect?: () => Promise<void> | void;
    afterConnect?: () => Promise<void> | void;
    beforeReconfigure?: () => Promise<void> | void;
    afterReconfigure?: () => Promise<void> | void;
    beforeDisconnect?: () => Promise<void> | void;
  } = {};
  /** Sockets are accepted but never used, as by a driver that has no dead socket. */
  dropsSockets = false;
  /** Whether reads reach their link. */
  readsArrive = true;
  #reconfiguring = 0;
  /** Commands that are not answered yet. */
  #pending = 0;
  readonly #server: FakeLinkServer;

  constructor(server: FakeLinkServer, index = 7) {
    this.#server = server;
    this.index = index;
  }

  nbdBelow(): readonly number[] {
    return [];
  }

  async connect(options: NbdConnectOptions): Promise<{ index: number }> {
    this.#pending += 1;
    return this.#connect(options).finally(() => {
      this.#pending -= 1;
    });
  }

  async #connect(options: NbdConnectOptions): Promise<{ index: number }> {
    this.connects.push(options);
    await this.hooks.beforeConnect?.();
    this.identifier = options.backendIdentifier;
    this.sockets = options.sockets.map((fd) => this.#take(fd));
    await this.hooks.afterConnect?.();
    return { index: this.index };
  }

  async reconfigure(options: NbdReconfigureOptions): Promise<void> {
    this.#check(options);
    this.reconfigures.push(options);
    this.#pending += 1;
    if (options.sockets !== undefined) this.#reconfiguring += 1;
    try {
      if (this.#reconfiguring > 1) throw new Error("two RECONFIGUREs with sockets are in flight");
      await this.hooks.beforeReconfigure?.();
      if (this.identifier === undefined || options.backendIdentifier !== this.identifier)
        throw refusal(constants.errno.EINVAL, "RECONFIGURE", options.index);
      for (const fd of options.sockets ?? []) this.#replace(fd);
      await this.hooks.afterReconfigure?.();
    } finally {
      this.#pending -= 1;
      if (options.sockets !== undefined) this.#reconfiguring -= 1;
    }
  }

  async disconnect({ index }: Pick<ConnectedDevice, "index">): Promise<void> {
    this.#pending += 1;
    await this.#disconnect(index).finally(() => {
      this.#pending -= 1;
    });
  }

  isBusyWith(): boolean {
    return this.#pending > 0;
  }

  async #disconnect(index: number): Promise<void> {
    if (index !== this.index) throw refusal(constants.errno.EINVAL, "DISCONNECT", index);
    this.disconnectCount += 1;
    await this.hooks.beforeDisconnect?.();
    this.sayGoodbye();
  }

  /** The device ends: a disconnect request on every live link, then the sockets are shut down. */
  sayGoodbye(): void {
    const living = this.sockets.filter(({ fd }) => !isHungUp(fd));
    this.forget();
    for (const { link } of living) link?.end({ kind: "disconnect" });
  }

  /** The device is gone, without a disconnect request. */
  forget(): void {
    this.identifier = undefined;
    for (const { fd } of this.sockets.splice(0)) {
      shutdown(fd, SHUT_RDWR);
      close(fd);
    }
  }

  /** The kernel gives one socket up by itself, as after a timeout. */
  killSocket(at: number): void {
    const socket = this.sockets[at];
    if (socket === undefined) throw new Error(`no socket ${at}`);
    shutdown(socket.fd, SHUT_RDWR);
  }

  /** Adds a dead socket, whose worker died with a former manager. */
  addDeadSocket(): void {
    const [fd, peer] = socketPair(SOCK_STREAM);
    close(peer);
    this.sockets.push({ fd, link: undefined });
  }

  /** Which links the kernel uses, alive or not. */
  get links(): Array<FakeLink | undefined> {
    return this.sockets.map(({ link }) => link);
  }

  /** For each socket, whether it is dead. */
  get deadSockets(): boolean[] {
    return this.sockets.map(({ fd }) => isHungUp(fd));
  }

  backendOf(index: number): string | undefined {
    return index === this.index ? this.identifier : undefined;
  }

  configuringThread(index: number): number | undefined {
    return this.backendOf(index) === undefined ? undefined : 1;
  }

  deviceSizeBytes(): number | undefined {
    return this.identifier === undefined ? 0 : this.connects.at(-1)?.sizeBytes;
  }

  findByBackend(identifier: string): number | undefined {
    return this.identifier === identifier ? this.index : undefined;
  }

  readsInFlight(index: number): number {
    if (index !== this.index) throw new Error(`asked for the reads of nbd${index}`);
    return this.inFlight;
  }

  /** A node that /dev lacks. */
  missing: MissingNode | undefined;

  missingNode(): MissingNode | undefined {
    return this.missing;
  }

  countsReads(): boolean {
    return this.iostats;
  }

  ioTimeoutMs(): number | undefined {
    return this.ioTimeouts.at(-1);
  }

  async setIoTimeout(_: number, milliseconds: number): Promise<void> {
    this.ioTimeouts.push(milliseconds);
  }

  /** One read: over the first live link, or waiting for one. */
  async probe(_: number, signal: AbortSignal): Promise<ProbeResult> {
    this.probeCount += 1;
    while (!signal.aborted) {
      const socket = this.sockets.find(({ fd, link }) => !isHungUp(fd) && link?.isServed === true);
      if (socket !== undefined && this.readsArrive) {
        socket.link?.request1();
        return { ok: true };
      }
      await sleep(3, undefined, { signal }).catch(() => {});
    }
    return { ok: false, why: "the read did not come back in time" };
  }

  /** One request on every live link: a busy device. */
  trafficEverywhere(): void {
    for (const { fd, link } of this.sockets) if (!isHungUp(fd) && link?.isServed === true) link.request1();
  }

  #take(fd: number): KernelSocket {
    return { fd: duplicate(fd), link: this.#server.byKernelFd(fd) };
  }

  #replace(fd: number): void {
    const dead = this.sockets.find((socket) => isHungUp(socket.fd));
    if (dead === undefined || this.dropsSockets) return;
    // A socket whose last reference is dropped here can be freed under the kernel's receiver.
    if (dead.link !== undefined && holdersOf(dead.fd) < 2)
      throw new Error("the old kernel end was closed before RECONFIGURE");
    close(dead.fd);
    Object.assign(dead, this.#take(fd));
  }

  #check(options: NbdReconfigureOptions): void {
    for (const forbidden of ["sizeBytes", "blockSizeBytes", "timeoutSeconds"] as const)
      if (forbidden in options) throw new Error(`RECONFIGURE carries ${forbidden}`);
    for (const needed of ["backendIdentifier", "deadConnectionTimeoutSeconds", "clientFlags"] as const)
      if (options[needed] === undefined) throw new Error(`RECONFIGURE lacks ${needed}`);
    if (options.sockets?.length === 0) throw new Error("RECONFIGURE carries an empty list of sockets");
  }
}
