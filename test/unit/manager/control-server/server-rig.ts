/** A control server over a fake manager, with peers that send what a test likes. All of them end with the test. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, vi } from "vitest";
import type { AttachParams } from "../../../../src/control/protocol.ts";
import { toAttachParams } from "../../../../src/library/options.ts";
import { ControlServer } from "../../../../src/manager/control-server/control-server.ts";
import { until } from "../../../helpers/until.ts";
import { FakeManager } from "../fake-manager.ts";
import { RawPeer } from "./raw-peer.ts";

// Of the current test.
export let directory: string;
export let path: string;
export let manager: FakeManager;
export let server: ControlServer;
export let logged: string[];
export const peers: RawPeer[] = [];

/** Gives each test of a file a server. */
export function useControlServer(): void {
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "erofs-nbd-control-"));
    path = join(directory, "control.sock");
    manager = new FakeManager();
    logged = [];
    const log = (message: string): number => logged.push(message);
    server = new ControlServer(path, manager, { info: log, warn: log, error: log });
  });
  afterEach(async () => {
    vi.useRealTimers();
    for (const peer of peers.splice(0)) peer.close();
    await until("all connections gone", () => server.connectionCount === 0);
    server.close();
    rmSync(directory, { recursive: true });
  });
}

export async function connect(): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  peers.push(peer);
  return peer;
}

/** A message as it is sent. */
export const line = (value: unknown): string => `${JSON.stringify(value)}\n`;
export const HELLO: string = line({ id: 1, method: "hello", params: {} });
/** The parameters of an attach. */
export const ATTACH: AttachParams = toAttachParams("/a.erofs", { interface: "netlink" });
