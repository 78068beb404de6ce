/** A session and a device of the library over a real control socket, with a manager that a test controls. */
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, vi } from "vitest";
import { ControlClient } from "../../../src/control/client.ts";
import type { DeviceEvent, DeviceStatus } from "../../../src/control/protocol.ts";
import { chooseRunDir, type RunDir } from "../../../src/control/run-dir.ts";
import { Session } from "../../../src/control/session.ts";
import { attachThrough } from "../../../src/library/attach.ts";
import type { AttachedDevice, AttachedDeviceEvents } from "../../../src/library/attached-device.ts";
import { toAttachParams } from "../../../src/library/options.ts";
import { ControlServer } from "../../../src/manager/control-server/control-server.ts";
import { until } from "../../helpers/until.ts";
import { FakeManager } from "../manager/fake-manager.ts";

const QUIET = { info: () => {}, warn: () => {}, error: () => {} };
export const STATUS: DeviceStatus = {
  device: "/dev/nbd5",
  index: 5,
  identifier: "mine",
  sizeBytes: 4096,
  blockSizeBytes: 512,
  state: "serving",
} as unknown as DeviceStatus;

/** By the clock of the test where it has one: see `waitOutPatience`. */
const PATIENCE_MS = 400;

export class DeviceManager extends FakeManager {
  override async describe(): Promise<DeviceStatus> {
    this.tell({ event: "attached", image: "/a" });
    this.tell({ event: "state", state: "taking-over", before: "serving" });
    return STATUS;
  }

  override async detach(...params: Parameters<FakeManager["detach"]>): Promise<[]> {
    const results = await super.detach(...params);
    this.tell({ event: "detached", message: "detached" });
    return results;
  }

  tell(event: object, device = "/dev/nbd5"): void {
    this.emit("event", { at: "now", device, ...event } as DeviceEvent);
  }
}

export let runDir: RunDir;
export let manager: DeviceManager;
export let server: ControlServer;
export let session: Session;
export let device: AttachedDevice;
export let image: string;
export let letGo: number;
/** Managers that the session wanted started. */
export let starts: number;
/** How often the session has looked for a manager. */
export let looks: number;
/** What a test may change. */
export const habits: { closesSession: boolean; mayStart: boolean } = {
  closesSession: false,
  mayStart: false,
};
export let heard: unknown[][];

export function serve(): void {
  server = new ControlServer(runDir.controlSocket, manager, QUIET);
}

/** From now on the session's clock stands still, until `waitOutPatience`. */
export function stopClock(): void {
  vi.useFakeTimers({ toFake: ["performance"] });
}

/** The time for which the session only looks for another manager is over. */
export function waitOutPatience(): void {
  vi.advanceTimersByTime(PATIENCE_MS);
}

/** Waits until the session has looked for a manager several times. */
export async function someLooks(): Promise<void> {
  const before = looks;
  await until("some looks", () => looks >= before + 3);
}

/** Gives each test of a file a session, and a device that was attached through it. */
export function useAttachedDevice(): void {
  beforeEach(async () => {
    runDir = chooseRunDir(realpathSync(mkdtempSync(join(tmpdir(), "erofs-nbd-session-"))));
    manager = new DeviceManager();
    manager.statusAnswer = [STATUS];
    letGo = 0;
    habits.closesSession = false;
    heard = [];
    serve();
    starts = 0;
    looks = 0;
    habits.mayStart = false;
    const find = () => ControlClient.connect(runDir);
    const reach = async (): Promise<ControlClient> => {
      const client = await find();
      if (client !== undefined) return client;
      starts += 1;
      if (!habits.mayStart) throw new Error("no manager is running");
      serve();
      return (await find()) as ControlClient;
    };
    session = new Session(reach, {
      afterLoss: {
        find: () => {
          looks += 1;
          return find();
        },
        mayStart: () => habits.mayStart,
        patienceMs: PATIENCE_MS,
      },
    });
    image = join(runDir.path, "image");
    writeFileSync(image, "some bytes");
    device = await attachThrough(session, toAttachParams(image, {}), () => {
      letGo += 1;
      if (habits.closesSession) session.close();
    });
    const names: ReadonlyArray<keyof AttachedDeviceEvents> = [
      "state",
      "failover",
      "moved",
      "stalled",
      "readErrors",
      "managerLost",
      "managerFound",
      "detached",
    ];
    for (const name of names) device.on(name, (...words: unknown[]) => heard.push([name, ...words]));
  });
  afterEach(() => {
    vi.useRealTimers();
    session.close();
    server.close();
    rmSync(runDir.path, { recursive: true });
  });
}
