/**
 * A NetlinkDevice over a fake kernel and fake workers with real sockets; everything that it reports is recorded.
 *
 * `close` ends the device and checks what must hold after any test: one outcome per failover, released at most once,
 * and no outcome without a cause.
 */
import { expect } from "vitest";
import type { FailoverTiming } from "../../../src/supervisor/failover/timing.ts";
import type { DeviceSettings, FailoverOutcome } from "../../../src/supervisor/managed-device.ts";
import { NetlinkDevice } from "../../../src/supervisor/netlink-device.ts";
import type { Image } from "../../../src/supervisor/ports.ts";
import { until } from "../../helpers/until.ts";
import { FakeKernel } from "./fake-kernel.ts";
import { FakeLinkServer } from "./fake-server.ts";

/** Short waits; the order of everything is the real one. */
export const QUICK_TIMING: FailoverTiming = {
  workerDeadlineMs: 150,
  proofDeadlineMs: 120,
  quick: { retries: 2, minTimeout: 5, maxTimeout: 20, factor: 2, randomize: true },
  slow: { retries: Number.POSITIVE_INFINITY, minTimeout: 10, maxTimeout: 30, factor: 1.5, randomize: true },
};

const IMAGE: Image = {
  spec: {
    type: "file",
    path: "/images/any.erofs",
    identity: { kind: "file", device: "8:1", inode: "5", sizeBytes: 8192, mtimeNs: "0" },
  },
  fd: -1,
  blockSizeBytes: 4096,
};

const SETTINGS: DeviceSettings = {
  identifier: "one of ours",
  sizeBytes: 8192,
  connections: 1,
  timeoutSeconds: 0,
  deadTimeoutSeconds: 86_400,
  ioTimeoutMs: 50,
  hangTimeoutMs: 2000,
  autoclear: false,
};

export class Bench {
  readonly server: FakeLinkServer = new FakeLinkServer();
  readonly kernel: FakeKernel = new FakeKernel(this.server);
  readonly device: NetlinkDevice;
  /** State changes, in order. */
  readonly states: string[] = [];
  readonly outcomes: FailoverOutcome[] = [];
  readonly released: string[] = [];
  readonly said: string[] = [];
  /** The content of the record each time it was written: state and number of opened links. */
  readonly records: string[] = [];
  /** Failures of the next writes of the record, in order. */
  readonly diskFaults: Array<Error | undefined> = [];
  failovers = 0;

  constructor(settings: Partial<DeviceSettings> = {}, readyDeadlineMs = 4000) {
    const persist = async (): Promise<void> => {
      this.records.push(`${this.device.state}, ${this.server.links.length} links, nbd${this.device.index}`);
      await Promise.resolve();
      const fault = this.diskFaults.shift();
      if (fault !== undefined) throw fault;
    };
    this.device = new NetlinkDevice({ ...SETTINGS, ...settings }, IMAGE, this.kernel, this.server, persist, {
      view: this.kernel,
      timing: QUICK_TIMING,
      readyDeadlineMs,
    });
    this.device.on("state", (state, before) => {
      this.states.push(state);
      if (before === "serving" && (state === "reconnecting" || state === "taking-over")) this.failovers += 1;
    });
    this.device.on("failover", (outcome) => this.outcomes.push(outcome));
    this.device.on("released", (why) => this.released.push(why));
    this.device.on("stalled", (why) => this.said.push(`stalled: ${why}`));
    this.device.on("revived", () => this.said.push("revived"));
    this.device.on("recordFailed", (why) => this.said.push(`record: ${why}`));
    this.device.on("attemptFailed", (why) => this.said.push(`attempt: ${why}`));
    this.device.on("moved", (workerPid, stallMs) => this.said.push(`moved to ${workerPid} in ${stallMs} ms`));
    this.device.on("readErrors", (message, count) => this.said.push(`${count} × ${message}`));
  }

  /** An attached device, quiet and serving. */
  static async attached(settings: Partial<DeviceSettings> = {}): Promise<Bench> {
    const bench = new Bench(settings);
    await bench.device.attach(undefined);
    return bench;
  }

  /** Waits until so many failovers have had their outcome, and returns the last. */
  async outcome(count = 1): Promise<FailoverOutcome> {
    await until(`outcome ${count}`, () => this.outcomes.length >= count);
    const outcome = this.outcomes[count - 1];
    if (outcome === undefined) throw new Error("no outcome");
    return outcome;
  }

  state(state: string): Promise<void> {
    return until(`state ${state}`, () => this.device.state === state);
  }

  /** Ends the device in any state, and checks what must always hold. */
  async close(): Promise<void> {
    await this.device.detach();
    await until("release", () => this.device.state === "detached");
    this.kernel.forget();
    this.server.dispose();
    expect(this.released).toHaveLength(1);
    expect(this.outcomes).toHaveLength(this.failovers);
    for (const { cause, stallMs } of this.outcomes) {
      expect(cause).not.toBe("");
      expect(stallMs).toBeGreaterThanOrEqual(0);
      expect(Number.isFinite(stallMs)).toBe(true);
    }
  }
}
