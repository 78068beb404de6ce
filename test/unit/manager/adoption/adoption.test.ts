/** adoption.ts: real records, processes in the place of workers, and a fake kernel. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { adoptDevices } from "../../../../src/manager/adoption/adoption.ts";
import type { LeftoverDevice } from "../../../../src/manager/adoption/leftover-device.ts";
import type { DeviceRecord, NewRecord } from "../../../../src/manager/records/record.ts";
import { RecordStore } from "../../../../src/manager/records/record-store.ts";
import type { FoundLink } from "../../../../src/pool/links/found-link.ts";
import { openImage } from "../../../../src/source/open-image.ts";
import type { ManagedDevice } from "../../../../src/supervisor/managed-device.ts";
import { close } from "../../../../src/sys/libc.ts";
import { identifyProcess, isAlive, type ProcessIdentity } from "../../../../src/sys/process-identity.ts";
import { until } from "../../supervisor/waiting.ts";

let directory: string;
let store: RecordStore;
const children: ChildProcess[] = [];
const kept: ManagedDevice[] = [];
/** The state of the fake kernel: index by identifier, and the configuring thread by index. */
let kernel: {
  devices: Map<string, number>;
  threads: Map<number, number>;
  disconnected: number[];
  /** Reads in flight, by index. */
  waiting: Map<number, number>;
};
let adopted: Array<{ record: DeviceRecord; fd: number; index: number; links: readonly FoundLink[] }>;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-adopt-"));
  store = new RecordStore(directory);
  kernel = { devices: new Map(), threads: new Map(), disconnected: [], waiting: new Map() };
  adopted = [];
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
async function worker(): Promise<ProcessIdentity> {
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  children.push(child);
  await once(child, "spawn");
  const identity = identifyProcess(child.pid ?? 0);
  if (identity === undefined) throw new Error("the stand-in has not started");
  return identity;
}

/** Writes an image and the record of a device that a former manager attached from it. */
async function leave(
  name: string,
  workers: readonly ProcessIdentity[],
  changes: Partial<NewRecord> = {},
): Promise<string> {
  const path = join(directory, `${name}.image`);
  writeFileSync(path, `the image ${name}`.padEnd(4096));
  const image = openImage(path);
  close(image.fd);
  await store.write({
    identifier: name,
    interface: "netlink",
    index: null,
    image: image.spec,
    sizeBytes: 4096,
    blockSizeBytes: 512,
    connections: 1,
    timeoutSeconds: 0,
    deadTimeoutSeconds: 60,
    ioTimeoutMs: 1000,
    hangTimeoutMs: 2000,
    autoclear: false,
    workers,
    client: null,
    lentTo: null,
    history: {
      past: { requests: 0, readBytes: 0, readErrors: 0 },
      failovers: { takeovers: 0, reconnects: 0, failedFailovers: 0, handovers: 0 },
      lastFailover: null,
    },
    ...changes,
  });
  return path;
}

/** Adopts with the links and pids of reattached workers, and with silent workers. */
function adopt(
  links: readonly FoundLink[] = [],
  reattachedPids: readonly number[] = [],
  silent: readonly ProcessIdentity[] = [],
): Promise<string[]> {
  return adoptDevices(store, {
    log: { info: () => {}, warn: () => {}, error: () => {} },
    nbd: {
      disconnect: async ({ index }) => {
        kernel.disconnected.push(index);
        for (const [name, at] of kernel.devices) if (at === index) kernel.devices.delete(name);
      },
    },
    links,
    reattachedPids,
    silent,
    adopt: async (record, image, index, found) => {
      adopted.push({ record, fd: image.fd, index, links: found });
    },
    keep: (device) => kept.push(device),
    view: {
      findByBackend: (identifier) => kernel.devices.get(identifier),
      backendOf: (index) => [...kernel.devices].find(([, at]) => at === index)?.[0],
      configuringThread: (index) => kernel.threads.get(index),
      readsInFlight: (index) => kernel.waiting.get(index) ?? 0,
    },
  });
}

const records = (): string[] => readdirSync(directory).filter((name) => name.endsWith(".json"));
const adoptedNames = (): string[] => adopted.map(({ record }) => record.identifier).sort();
const keptNames = (): string[] => kept.map(({ settings }) => settings.identifier).sort();

describe("a netlink device", () => {
  test("that the kernel still has: old workers are killed, the image is opened again, it is taken over", async () => {
    const [one, two] = [await worker(), await worker()];
    await leave("a", [one, two]);
    kernel.devices.set("a", 4);
    const notes = await adopt();
    expect(adopted).toMatchObject([{ index: 4, record: { identifier: "a" } }]);
    expect([one, two].some(isAlive)).toBe(false);
    expect(kept).toEqual([]);
    expect(records()).toEqual(["a.json"]);
    expect(notes).toEqual([
      `nbd4 (${join(directory, "a.image")}) was left by manager ${process.pid}, which is dead: taken over`,
    ]);
  });

  test("with waiting reads is taken over before the others", async () => {
    for (const [at, name] of ["a", "b", "c"].entries()) {
      await leave(name, []);
      kernel.devices.set(name, at);
    }
    kernel.waiting.set(1, 5);
    kernel.waiting.set(2, 1);
    await adopt();
    expect(adopted.map(({ index }) => index)).toEqual([1, 2, 0]);
  });

  test("that the kernel no longer has: the record is removed, its workers are not killed", async () => {
    const one = await worker();
    const path = await leave("a", [one]);
    expect(await adopt()).toEqual([`${path} is no longer attached: its record is removed`]);
    expect(records()).toEqual([]);
    expect(adopted).toEqual([]);
    expect(isAlive(one)).toBe(true);
  });

  test("of another program, without a record, is not touched", async () => {
    kernel.devices.set("another program's", 0);
    expect(await adopt()).toEqual([]);
    expect([adopted, kept, kernel.disconnected]).toEqual([[], [], []]);
  });

  test("whose workers have ended, with other processes at their pids: no process is killed", async () => {
    const innocent = await worker();
    await leave("a", [
      { pid: 2 ** 30, startTime: "1" },
      { ...innocent, startTime: `${Number(innocent.startTime) - 1}` },
    ]);
    kernel.devices.set("a", 0);
    await adopt();
    expect(adoptedNames()).toEqual(["a"]);
    expect(isAlive(innocent)).toBe(true);
  });

  test("of a former boot: the record is removed, even if a device has its identifier now", async () => {
    await leave("a", []);
    const file = join(directory, "a.json");
    writeFileSync(file, readFileSync(file, "utf8").replace(/"bootId": "[^"]*"/, '"bootId": "former"'));
    kernel.devices.set("a", 0);
    expect(await adopt()).toEqual([
      `${join(directory, "a.image")} was attached before the last boot: its record is removed`,
    ]);
    expect([records(), adopted, kept]).toEqual([[], [], []]);
  });

  test("is taken over in spite of an invalid record, which is reported and left alone", async () => {
    writeFileSync(join(directory, "future.json"), "{}");
    await leave("a", []);
    kernel.devices.set("a", 0);
    expect((await adopt())[0]).toBe(
      `${join(directory, "future.json")} is not a record of a known version: left alone`,
    );
    expect(adoptedNames()).toEqual(["a"]);
    expect(records()).toEqual(["a.json", "future.json"]);
  });
});

/** A link of a reattached worker, and what was done with it. */
function found(device: string, workerPid: number): FoundLink & { readonly fates: string[] } {
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

describe("a link without a record", () => {
  test("of a device that was never connected is closed", async () => {
    const link = found("nothing", 1);
    await adopt([link]);
    close(link.imageFd);
    expect(link.fates).toEqual(["closed"]);
  });

  test("of a device that exists, whose record is invalid: it is left to its worker", async () => {
    const link = found("a", 1);
    await leave("a", []);
    const file = join(directory, "a.json");
    writeFileSync(file, readFileSync(file, "utf8").replace(/"version": 1/, '"version": 2'));
    kernel.devices.set("a", 3);
    expect((await adopt([link])).join("\n")).toContain(
      "nbd3 is served by worker 1 and has no record: left alone",
    );
    close(link.imageFd);
    expect(link.fates).toEqual(["left"]);
    expect(records()).toEqual(["a.json"]);
  });
});

describe("a worker that does not answer", () => {
  test("is killed even if no record names it, and even if its device has another link", async () => {
    const [answers, hangs] = [await worker(), await worker()];
    await leave("a", [answers], { connections: 2 });
    kernel.devices.set("a", 1);
    const link = found("a", answers.pid);
    await adopt([link], [answers.pid], [hangs]);
    expect(adopted).toMatchObject([{ links: [link] }]);
    expect([answers, hangs].map(isAlive)).toEqual([true, false]);
  });

  test("is spared where it may serve a device that no other worker could serve", async () => {
    const one = await worker();
    rmSync(await leave("changed", [one]));
    kernel.devices.set("changed", 1);
    await adopt([], [], [one]);
    expect(isAlive(one)).toBe(true);
  });
});

describe("an image that is not what was attached", () => {
  const ways: Record<string, [spoil: (path: string) => void, why: RegExp]> = {
    missing: [(path) => rmSync(path), /there is no such file/],
    replaced: [
      (path) => {
        writeFileSync(`${path}.new`, "x".repeat(4096));
        renameSync(`${path}.new`, path);
      },
      /it was replaced by another file/,
    ],
    grown: [(path) => appendFileSync(path, "more"), /its size changed from 4096 to 4100 bytes/],
    truncated: [(path) => writeFileSync(path, "short"), /it was truncated from 4096 to 5 bytes/],
  };

  for (const [name, [spoil, why]] of Object.entries(ways)) {
    test(`${name}: its worker, which has the right file open, serves on; it can be detached`, async () => {
      const one = await worker();
      spoil(await leave("a", [one]));
      kernel.devices.set("a", 2);
      const notes = await adopt();
      expect(notes.join("\n")).toMatch(why);
      expect(notes.at(-1)).toContain(
        "its old worker, if any, serves on; it goes on when it gets it back (erofs-nbd attach IMAGE), or detach it",
      );
      expect(isAlive(one)).toBe(true);
      expect(adopted).toEqual([]);
      expect(kept[0]?.describeLinks()).toMatchObject([{ workerPid: one.pid, state: "up" }]);
      const released = new Promise((resolve) => kept[0]?.once("released", resolve));
      await kept[0]?.detach();
      expect(await released).toBe("detached");
      expect(kernel.disconnected).toEqual([2]);
      expect(kept[0]?.state).toBe("detached");
    });
  }

  test("without a worker the device is stalled until it gets its image, and says why", async () => {
    const one = await worker();
    const path = await leave("a", [one]);
    rmSync(path);
    kernel.devices.set("a", 2);
    await adopt();
    const device = kept[0] as LeftoverDevice;
    expect([device.state, device.stalledReason, device.isAwaitingImage]).toEqual(["serving", null, false]);
    const stalled = new Promise((resolve) => device.once("stalled", resolve));
    process.kill(one.pid, "SIGKILL");
    const reason = `cannot open image ${path}: there is no such file; hand the image in: erofs-nbd attach IMAGE`;
    expect(await stalled).toBe(reason);
    expect([device.state, device.stalledReason, device.isAwaitingImage]).toEqual(["stalled", reason, true]);
    // The same from the start, where its worker died before the manager came.
    await adopt();
    expect(kept[1]).toMatchObject({ state: "stalled", stalledReason: reason, isAwaitingImage: true });
    expect((kept[1] as LeftoverDevice).leave()).toMatchObject({ identifier: "a" });
    kept.pop();
  });

  test("that was touched, so that it may have been written and its time set back: the same", async () => {
    const path = await leave("a", []);
    const { atime, mtime } = statSync(path);
    // The kernel's clock for file times ticks every few milliseconds.
    const { ctimeNs } = statSync(path, { bigint: true });
    while (statSync(path, { bigint: true }).ctimeNs === ctimeNs) chmodSync(path, 0o600);
    kernel.devices.set("a", 2);
    await adopt();
    expect(statSync(path)).toMatchObject({ atime, mtime });
    expect(adopted).toEqual([]);
    expect(kept[0]?.stalledReason).toBe(
      `${path} may not be what was attached: it was touched after the attach, by a rename, chmod or link, ` +
        "or by a write whose time was set back; if its bytes are the same, hand it in: erofs-nbd attach IMAGE",
    );
  });

  test("that a worker of a former manager does not have open: that link is closed", async () => {
    const one = await worker();
    const link = { ...found("a", one.pid), imageFd: openSync("/dev/null", "r") };
    await leave("a", [one]);
    kernel.devices.set("a", 1);
    const notes = await adopt([link], [one.pid]);
    expect(notes[0]).toMatch(/^worker \d+ serves .*a\.image from another file: its link is closed$/);
    expect(link.fates).toEqual(["closed"]);
    expect(adopted).toMatchObject([{ links: [] }]);
    close(link.imageFd);
  });

  test("that was handed in as a descriptor is not opened by its path", async () => {
    const path = await leave("a", []);
    const file = join(directory, "a.json");
    writeFileSync(file, readFileSync(file, "utf8").replace('"path":', '"isHandedIn": true, "path":'));
    kernel.devices.set("a", 2);
    await adopt();
    expect(adopted).toEqual([]);
    expect(kept[0]?.stalledReason).toContain(`descriptor:${path} was handed in as a descriptor`);
  });

  test("a device that shares a worker with it keeps that worker, and so on; others are taken over", async () => {
    const [one, two, three, four] = [await worker(), await worker(), await worker(), await worker()];
    rmSync(await leave("changed", [one]));
    await leave("shares one", [one, two]);
    await leave("shares two", [two, three]);
    await leave("apart", [four]);
    for (const [at, name] of ["changed", "shares one", "shares two", "apart"].entries())
      kernel.devices.set(name, at);
    await adopt();
    expect(adoptedNames()).toEqual(["apart"]);
    expect(keptNames()).toEqual(["changed", "shares one", "shares two"]);
    expect([one, two, three, four].map(isAlive)).toEqual([true, true, true, false]);
  });
});

describe("an ioctl device", () => {
  test("whose process lives is kept, and so are its workers and the devices that share them", async () => {
    const [client, one, two] = [await worker(), await worker(), await worker()];
    await leave("old way", [one], { interface: "ioctl", client, index: 1 });
    kernel.threads.set(1, client.pid);
    await leave("shares its worker", [one, two]);
    kernel.devices.set("shares its worker", 2);
    await adopt();
    expect(keptNames()).toEqual(["old way", "shares its worker"]);
    expect([client, one, two].every(isAlive)).toBe(true);
    expect(adopted).toEqual([]);
  });

  test("whose process has ended, or whose index is used by another program: the record is removed", async () => {
    const [client, one] = [await worker(), await worker()];
    await leave("gone", [one], { interface: "ioctl", client: { pid: 2 ** 30, startTime: "1" }, index: 1 });
    await leave("index taken", [one], { interface: "ioctl", client, index: 2 });
    kernel.threads.set(2, client.pid + 1);
    await leave("never connected", [one], { interface: "ioctl", client: null, index: null });
    await adopt();
    expect([records(), kept, adopted]).toEqual([[], [], []]);
    expect([client, one].every(isAlive)).toBe(true);
  });
});

describe("a leftover device", () => {
  test("that ends by itself is noticed and released", async () => {
    rmSync(await leave("a", []));
    kernel.devices.set("a", 2);
    await adopt();
    const released: string[] = [];
    kept[0]?.on("released", (why) => released.push(why));
    kernel.devices.clear();
    await until("the release", () => released.length > 0);
    expect(released).toEqual(["it ended while no manager had it"]);
  });

  test("is not shown as served by a worker of another device", async () => {
    const [own, other] = [await worker(), await worker()];
    rmSync(await leave("a", [own, other]));
    kernel.devices.set("a", 2);
    await adopt([], [other.pid]);
    expect(kept[0]?.describeLinks()).toMatchObject([{ workerPid: own.pid }]);
    process.kill(own.pid, "SIGKILL");
    await until("stalled", () => kept[0]?.state === "stalled");
    expect(isAlive(other)).toBe(true);
  });

  test("by ioctl whose index another program uses by now is not disconnected", async () => {
    const client = await worker();
    await leave("a", [await worker()], { interface: "ioctl", client, index: 1 });
    kernel.threads.set(1, client.pid);
    await adopt();
    kernel.threads.set(1, client.pid + 1);
    await kept[0]?.detach();
    expect(kept[0]?.state).toBe("detached");
    expect(isAlive(client)).toBe(true);
  });

  test("without a worker that an image cannot help has failed, and can still be detached", async () => {
    const one = await worker();
    const image = {
      type: "module",
      path: "/nowhere.mjs",
      options: null,
      sizeBytes: 4096,
      identity: null,
    } as const;
    await leave("a", [one], { image });
    kernel.devices.set("a", 2);
    await adopt();
    const said: string[] = [];
    kept[0]?.on("stalled", (why) => said.push(why));
    process.kill(one.pid, "SIGKILL");
    await until("failed", () => kept[0]?.state === "failed");
    expect(said).toEqual(["its worker died, and its image is no longer what was attached: detach it"]);
    expect(kept[0]?.describeLinks()).toEqual([]);
  });

  test("whose DISCONNECT is refused stays as it was, and can be detached later", async () => {
    rmSync(await leave("a", [await worker()]));
    kernel.devices.set("a", 2);
    await adopt();
    const [leftover] = kept;
    const disconnect = kernel.disconnected.push;
    kernel.disconnected.push = () => {
      throw new Error("EPERM");
    };
    await expect(leftover?.detach()).rejects.toThrow("EPERM");
    expect(leftover?.state).toBe("serving");
    kernel.disconnected.push = disconnect;
    await leftover?.detach();
    expect(leftover?.state).toBe("detached");
  });
});
