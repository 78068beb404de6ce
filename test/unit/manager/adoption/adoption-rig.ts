/**
 * What tests of adoption share: real records, processes in the place of workers, and a fake kernel, anew for each test.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "vitest";
import { adoptDevices } from "../../../../src/manager/adoption/adoption.ts";
import type { AdoptionContext } from "../../../../src/manager/adoption/adoption-context.ts";
import type { LeftoverDevice } from "../../../../src/manager/adoption/leftover-device.ts";
import type { Opening } from "../../../../src/manager/adoption/recorded-image.ts";
import type { DeviceRecord, NewRecord } from "../../../../src/manager/records/record.ts";
import { RecordStore } from "../../../../src/manager/records/record-store.ts";
import { refusal, reopenByPath } from "../../../../src/opener/reopen-image.ts";
import type { FoundLink } from "../../../../src/pool/links/found-link.ts";
import { openImage } from "../../../../src/source/open-image.ts";
import type { ManagedDevice } from "../../../../src/supervisor/managed-device.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { identifyProcess, type ProcessIdentity } from "../../../../src/sys/process-identity.ts";
import { newRecord } from "../../../helpers/new-record.ts";

export let directory: string;
export let store: RecordStore;
const children: ChildProcess[] = [];
export const kept: ManagedDevice[] = [];
/** The state of the fake kernel: index by identifier, and the configuring thread by index. */
export let kernel: {
  devices: Map<string, number>;
  threads: Map<number, number>;
  disconnected: number[];
  /** Reads in flight, by index. */
  waiting: Map<number, number>;
};
/** Devices whose images were not open in time. */
export let late: Array<{ device: LeftoverDevice; opening: Opening }>;
export let adopted: Array<{ record: DeviceRecord; fd: number; index: number; links: readonly FoundLink[] }>;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-adopt-"));
  store = new RecordStore(directory);
  kernel = { devices: new Map(), threads: new Map(), disconnected: [], waiting: new Map() };
  adopted = [];
  late = [];
});

afterEach(async () => {
  for (const { fd } of adopted) close(fd);
  kernel.threads.clear();
  for (const device of kept.splice(0)) await device.detach();
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill("SIGKILL");
    await once(child, "exit");
  }
  rmSync(directory, { recursive: true });
});

/** A process that stands in for a worker of the dead manager. */
export async function worker(): Promise<ProcessIdentity> {
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  children.push(child);
  await once(child, "spawn");
  const identity = identifyProcess(child.pid ?? 0);
  if (identity === undefined) throw new Error("the stand-in has not started");
  return identity;
}

/** Writes an image and the record of a device that a former manager attached from it. */
export async function leave(
  name: string,
  workers: readonly ProcessIdentity[],
  changes: Partial<NewRecord> = {},
): Promise<string> {
  const path = join(directory, `${name}.image`);
  writeFileSync(path, `the image ${name}`.padEnd(4096));
  const image = openImage(path);
  close(image.fd);
  await store.write(
    newRecord(name, {
      index: null,
      image: image.spec,
      blockSizeBytes: 512,
      deadTimeoutSeconds: 60,
      hangTimeoutMs: 2000,
      workers,
      ...changes,
    }),
  );
  return path;
}

/** Opens an image as an opener would, in this process. */
const openHere: AdoptionContext["open"] = ({ image }) => {
  const found = refusal(image) ?? reopenByPath(image);
  return {
    result: Promise.resolve("why" in found ? found : { fd: found.fd, spec: found.spec ?? image }),
    late: new Promise(() => {}),
    cancel: () => {},
  };
};

/** What adoption works with, but for what it finds: the fake kernel, and lists of what becomes of devices. */
export function surroundings(): Omit<AdoptionContext, "links" | "reattachedPids" | "silent"> {
  return {
    log: { info: () => {}, warn: () => {}, error: () => {} },
    nbd: {
      disconnect: async ({ index }) => {
        kernel.disconnected.push(index);
        for (const [name, at] of kernel.devices) if (at === index) kernel.devices.delete(name);
      },
    },
    adopt: async (record, image, index, found) => {
      adopted.push({ record, fd: image.fd, index, links: found });
    },
    open: openHere,
    awaitImage: (device, opening) => void late.push({ device, opening }),
    keep: (device) => kept.push(device),
    view: {
      findByBackend: (identifier) => kernel.devices.get(identifier),
      backendOf: (index) => [...kernel.devices].find(([, at]) => at === index)?.[0],
      configuringThread: (index) => kernel.threads.get(index),
      readsInFlight: (index) => kernel.waiting.get(index) ?? 0,
    },
  };
}

/** Adopts with the links and pids of reattached workers, and with silent workers. */
export function adopt(
  links: readonly FoundLink[] = [],
  reattachedPids: readonly number[] = [],
  silent: readonly ProcessIdentity[] = [],
  changes: Partial<AdoptionContext> = {},
): Promise<string[]> {
  return adoptDevices(store, { ...surroundings(), links, reattachedPids, silent, ...changes });
}

export const records = (): string[] => readdirSync(directory).filter((name) => name.endsWith(".json"));
export const adoptedNames = (): string[] => adopted.map(({ record }) => record.identifier).sort();
export const keptNames = (): string[] => kept.map(({ settings }) => settings.identifier).sort();

/** A link of a reattached worker, and what was done with it. */
export function found(device: string, workerPid: number): FoundLink & { readonly fates: string[] } {
  const fates: string[] = [];
  const image = join(directory, `${device}.image`);
  return {
    device,
    workerPid,
    linkIndex: 0,
    copyOnly: false,
    imageFd: openSync(existsSync(image) ? image : "/dev/null", "r"),
    journalPath: "/nowhere",
    fates,
    open: () => {
      throw new Error("not to be opened here");
    },
    leave: () => fates.push("left"),
    close: () => fates.push("closed"),
  };
}
