/**
 * The links of a device: the current DeviceLink of each link index, and the kernel ends that must outlive them.
 *
 * NetlinkDevice owns one; its failovers work on it. The number of links is fixed at CONNECT. Each link index has one
 * link after the other; the kernel end of a link stays open while the kernel uses the socket, and a while longer.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Exactness } from "../../source/exactness.ts";
import { close } from "../../sys/libc/files.ts";
import { type LinkCounters, NO_COUNTERS } from "../../worker-protocol/link-end.ts";
import type { DeviceSettings } from "../managed-device.ts";
import type {
  FoundLink,
  Image,
  LinkObserver,
  LinkRequest,
  LinkServer,
  OpenLink,
  Takeover,
} from "../ports.ts";
import { Changes } from "./changes.ts";
import { DeviceLink, type LinkDescription, type LinkListener } from "./device-link.ts";
import { WITNESS } from "./link-death.ts";
import { RetiredKernelEnds } from "./retired-kernel-ends.ts";

/** LINK_DEAD is queued some instructions before the socket is marked dead (nbd_mark_nsock_dead). */
const RECHECK_MS = [0, 10, 50];

/** What all links of a device have in common. */
export interface LinkPlan {
  readonly settings: Pick<DeviceSettings, "identifier" | "connections" | "hangTimeoutMs">;
  readonly image: Image;
  /** See LinkRequest. */
  readonly deviceIndex: () => number | undefined;
  /** See LinkRequest; asked for once. */
  readonly below: () => readonly number[];
  /** The kernel's count of reads in flight; undefined while it cannot be trusted. */
  readonly inFlight: () => number | undefined;
  /** Whether the kernel keeps that count. Looked at when a link is created, which then sends accordingly. */
  readonly isCounted: () => boolean;
}

export class LinkSet {
  readonly #plan: LinkPlan;
  readonly #server: LinkServer;
  readonly #listener: LinkListener;
  readonly #links: (DeviceLink | undefined)[];
  #below: readonly number[] | undefined;
  readonly #retired = new RetiredKernelEnds();
  readonly #changes = new Changes();
  /** What links of former generations have done. */
  readonly #past: LinkCounters = { ...NO_COUNTERS };
  readonly #pastLatencies: number[] = [];
  /** A file has failed inside a reply: no more replies by reference on this device. */
  #copyOnly = false;
  #linkDeadCount = 0;
  #released = false;

  /** All links are dead until they are replaced for the first time. */
  constructor(plan: LinkPlan, server: LinkServer, listener: LinkListener) {
    this.#plan = plan;
    this.#server = server;
    this.#listener = listener;
    this.#links = Array<DeviceLink | undefined>(plan.settings.connections).fill(undefined);
  }

  /** Link indexes without a live link. */
  get dead(): number[] {
    return [...this.#links.keys()].filter((index) => this.#links[index]?.isAlive !== true);
  }

  /** Link indexes whose link is alive and has no worker. */
  get orphaned(): number[] {
    return [...this.#links.keys()].filter((index) => this.#links[index]?.isOrphaned === true);
  }

  isAlive(index: number): boolean {
    return this.#links[index]?.isAlive === true;
  }

  /** What former links have done; a later manager begins with it. */
  get past(): Readonly<LinkCounters> {
    return this.#past;
  }

  /** Adds what links have done under a former manager. */
  remember(past: Readonly<LinkCounters>): void {
    addTo(this.#past, past);
  }

  get counters(): LinkCounters {
    const total = { ...this.#past };
    for (const { link } of this.#opened) addTo(total, link.counters);
    return total;
  }

  /** Adds how long the requests of all links took, former ones included, to a total; see OpenLink. */
  addLatenciesTo(total: number[]): void {
    this.#pastLatencies.forEach((value, at) => {
      total[at] = (total[at] ?? 0) + value;
    });
    for (const { link } of this.#opened) link.addLatenciesTo(total);
  }

  /** Whether nothing is unread, unanswered or unsent on any link. */
  get areQuiet(): boolean {
    return this.#opened.every(({ isAlive, link }) => isAlive && link.isQuiet);
  }

  /** How exact the answers of each live link are. */
  get exactness(): readonly (Exactness | undefined)[] {
    return this.#opened.filter(({ isAlive }) => isAlive).map(({ link }) => link.exactness);
  }

  describe(): LinkDescription[] {
    return this.#opened.map((link) => link.describe());
  }

  /**
   * Opens a new link for a link index and returns its kernel end, which the kernel does not know yet. `spread`: wait
   * a moment for an idle worker. @throws ErofsNbdError ERR_WORKER
   */
  async replace(index: number, signal: AbortSignal, spread = false): Promise<number> {
    const request = { ...this.#request(index), spread, former: this.#links[index]?.link };
    const link = await this.#open(index, (observer) => this.#server.openLink(request, observer, signal));
    return link.link.kernelFd;
  }

  /**
   * Goes on with links that workers serve already. Returns the indexes of those of which nothing shows that the kernel
   * has their socket, as when the manager died just before RECONFIGURE: the caller replaces them.
   */
  async adopt(found: readonly FoundLink[]): Promise<number[]> {
    this.#copyOnly = found.some(({ copyOnly }) => copyOnly);
    const unproven: number[] = [];
    for (const one of found) {
      const request = this.#request(one.linkIndex);
      const link = await this.#open(one.linkIndex, (observer) => one.open(request, observer));
      link.recallRequests();
      if (!link.hasRequest) unproven.push(one.linkIndex);
    }
    return unproven;
  }

  /** The kernel has the sockets of these links, whether a request comes soon or not: a later manager may rely on it. */
  confirm(indexes: readonly number[] = [...this.#links.keys()]): void {
    for (const index of indexes) this.#links[index]?.link.confirm();
  }

  /** See DeviceLink. Undefined when the link is dead afterwards. */
  async takeOver(
    index: number,
    signal: AbortSignal,
    waiting: (why: string) => void,
  ): Promise<Takeover | undefined> {
    return this.#links[index]?.takeOver(signal, waiting);
  }

  /** Shuts down the sockets of all live links, so that each of them dies. */
  shutDownAll(): void {
    for (const link of this.#opened) if (link.isAlive) link.shutDown();
  }

  /** Makes the sockets of dead links surely dead in the kernel, too. */
  shutDownDead(): void {
    for (const link of this.#opened) if (!link.isAlive) link.shutDown();
  }

  /** The kernel was offered the fresh sockets; see RetiredKernelEnds. */
  offered(taken: boolean): void {
    this.#retired.offered(taken);
  }

  /** Declares links dead that are not proven to be in use, so that they can be replaced again. */
  condemn(indexes: readonly number[], cause: string): void {
    for (const index of indexes) this.#links[index]?.lose(cause, WITNESS.kernel);
  }

  /** Looks at every kernel end. */
  check(cause: string): void {
    for (const link of this.#opened) link.check(cause);
  }

  /** The kernel reported a dead link, or may have: looks at every kernel end until the report must show. */
  async recheck(cause: string): Promise<void> {
    for (const wait of RECHECK_MS) {
      await sleep(wait);
      this.check(cause);
    }
  }

  /** How many LINK_DEAD messages have come since the links were last restored. */
  get linkDeadCount(): number {
    return this.#linkDeadCount;
  }

  /** A LINK_DEAD for this device. It may be late, double, or about a former link. */
  async linkDead(): Promise<void> {
    this.#linkDeadCount += 1;
    await this.recheck("the kernel reported a dead link");
  }

  /** The links are restored: LINK_DEAD messages until now say nothing about the next death. */
  forgetLinkDead(): void {
    this.#linkDeadCount = 0;
  }

  /** Whether each of these links has had a request; false when one of them died or was replaced. */
  async requestsSeen(indexes: readonly number[], signal: AbortSignal): Promise<boolean> {
    const links = indexes.map((index) => this.#links[index]).filter((link) => link !== undefined);
    for (;;) {
      if (links.some((link) => !link.isAlive)) return false;
      if (links.every((link) => link.hasRequest)) return true;
      if (signal.aborted) return false;
      await this.#changes.next(signal);
    }
  }

  /** Closes all links at once, and their kernel ends when that is safe. */
  release(): void {
    this.#released = true;
    for (const link of this.#opened) this.#retire(link);
    this.#links.fill(undefined);
    this.#retired.offered(true);
    this.#changes.notify();
  }

  get #opened(): DeviceLink[] {
    return this.#links.filter((link) => link !== undefined);
  }

  #request(index: number): LinkRequest {
    const { settings, image, deviceIndex, inFlight, isCounted } = this.#plan;
    this.#below ??= this.#plan.below();
    if (this.#opened.some(({ hasFailedSource }) => hasFailedSource)) this.#copyOnly = true;
    return {
      image,
      copyOnly: this.#copyOnly,
      spread: false,
      device: settings.identifier,
      linkIndex: index,
      deviceIndex,
      below: this.#below,
      counted: settings.connections === 1 && isCounted(),
      inFlight,
      hangTimeoutMs: settings.hangTimeoutMs,
    };
  }

  /** Opens a link and puts it into the place of the former one. */
  async #open(
    index: number,
    open: (observer: LinkObserver) => OpenLink | Promise<OpenLink>,
  ): Promise<DeviceLink> {
    const generation = (this.#links[index]?.generation ?? 0) + 1;
    const link = new DeviceLink(index, generation, this.#listener, this.#changes);
    const opened = await open(link);
    if (this.#released) {
      opened.close();
      close(opened.kernelFd);
      throw new Error("cannot use a new link: the device is released");
    }
    link.opened(opened);
    const former = this.#links[index];
    if (former !== undefined) this.#retire(former);
    this.#links[index] = link;
    link.deliverEarly();
    return link;
  }

  #retire(link: DeviceLink): void {
    addTo(this.#past, link.link.counters);
    link.link.addLatenciesTo(this.#pastLatencies);
    this.#retired.add(link.retire(), link.hasRequest);
  }
}

function addTo(total: LinkCounters, part: Readonly<LinkCounters>): void {
  total.requests += part.requests;
  total.readBytes += part.readBytes;
  total.readErrors += part.readErrors;
}
