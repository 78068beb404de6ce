/** record-store.ts: what survives a crash at which moment; sys/process-identity.ts: which process a record names. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { settingsOf } from "../../../../src/manager/records/record.ts";
import { RecordStore } from "../../../../src/manager/records/record-store.ts";
import { identifyProcess, isAlive } from "../../../../src/sys/process-identity.ts";
import { newRecord as record } from "../../../helpers/new-record.ts";
import { until } from "../../../helpers/until.ts";

let directory: string;
let store: RecordStore;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-records-"));
  store = new RecordStore(directory);
});
afterEach(() => rmSync(directory, { recursive: true }));

const pathOf = (identifier: string): string => join(directory, `${identifier}.json`);

describe("RecordStore", () => {
  test("loads what was written, with this boot and this process; the file is readable by its owner only", async () => {
    await store.write(record("a"));
    const { records, stale, unreadable } = store.load();
    expect(records).toEqual([
      {
        ...record("a"),
        version: 1,
        bootId: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
        manager: identifyProcess(process.pid),
      },
    ]);
    expect([stale, unreadable]).toEqual([[], []]);
    expect(statSync(pathOf("a")).mode & 0o777).toBe(0o600);
    const [loaded] = records;
    if (loaded === undefined) throw new Error("nothing was loaded");
    expect(settingsOf(loaded)).toEqual({
      identifier: "a",
      sizeBytes: 4096,
      connections: 1,
      timeoutSeconds: 0,
      deadTimeoutSeconds: 86_400,
      ioTimeoutMs: 1000,
      hangTimeoutMs: 3000,
      autoclear: false,
    });
  });

  test("the device that has the file system is kept, for one with further data of it", async () => {
    await store.write(record("extra", { extraOf: "main" }));
    const [loaded] = store.load().records;
    expect(loaded && settingsOf(loaded).extraOf).toBe("main");
  });

  test("a manager killed between write and rename: the old record counts, the temporary file is removed", async () => {
    await store.write(record("a", { index: null }));
    writeFileSync(`${pathOf("a")}.new`, '{"version":1,"identifier":"a","ind');
    writeFileSync(`${pathOf("never begun")}.new`, "");
    expect(new RecordStore(directory).load().records).toMatchObject([{ identifier: "a", index: null }]);
    expect(readdirSync(directory)).toEqual(["a.json"]);
  });

  test("a write that fails leaves the old record and nothing else", async () => {
    await store.write(record("a", { index: 1 }));
    mkdirSync(`${pathOf("a")}.new`);
    await expect(store.write(record("a", { index: 2 }))).rejects.toMatchObject({
      code: "ERR_RUN_DIR",
      cause: { code: "EISDIR" },
    });
    expect(store.load().records).toMatchObject([{ index: 1 }]);
    await store.write(record("a", { index: 3 }));
    expect(store.load().records).toMatchObject([{ index: 3 }]);
  });

  test("simultaneous writes of one record: the last call counts", async () => {
    await Promise.all(Array.from({ length: 20 }, (_, index) => store.write(record("a", { index }))));
    expect(store.load().records).toMatchObject([{ index: 19 }]);
    expect(readdirSync(directory)).toEqual(["a.json"]);
  });

  test("a removal waits for earlier writes: the record does not come back", async () => {
    await Promise.all([
      store.write(record("a")),
      store.write(record("a")),
      store.remove("a"),
      store.write(record("b")),
    ]);
    expect(readdirSync(directory)).toEqual(["b.json"]);
    await store.remove("not there");
  });

  test("a record that says the same is not written again, unless the file is another by then", async () => {
    await store.write(record("a"));
    const { ino } = statSync(pathOf("a"));
    await store.write(record("a"));
    expect(statSync(pathOf("a")).ino).toBe(ino);
    await store.write(record("a", { index: 4 }));
    await store.write(record("a"));
    expect(store.load().records).toMatchObject([{ index: 3 }]);
    rmSync(pathOf("a"));
    await store.write(record("a"));
    expect(store.load().records).toMatchObject([{ index: 3 }]);
    await store.remove("a");
    await store.write(record("a"));
    writeFileSync(pathOf("a"), "{");
    await store.write(record("a"));
    expect(store.load().records).toMatchObject([{ index: 3 }]);
  });

  test("a file handle is kept; without one, as in records of former versions, or with a bad one, there is none", async () => {
    const imageHandle = { fileSystem: "8:1", type: 129, bytes: "00ff" };
    await store.write(record("a", { imageHandle }));
    expect(store.load().records).toMatchObject([{ imageHandle }]);
    const text = readFileSync(pathOf("a"), "utf8");
    const { imageHandle: _, ...former } = JSON.parse(text) as Record<string, unknown>;
    for (const other of [former, { ...former, imageHandle: { ...imageHandle, bytes: "0" } }]) {
      writeFileSync(pathOf("a"), JSON.stringify(other));
      expect(store.load().records).toMatchObject([{ identifier: "a", imageHandle: null }]);
    }
  });

  test("a failed write does not block the next", async () => {
    mkdirSync(`${pathOf("a")}.new`);
    const both = await Promise.allSettled([
      store.write(record("a")),
      store.write(record("b")),
      store.remove("a"),
    ]);
    expect(both.map(({ status }) => status)).toEqual(["rejected", "fulfilled", "fulfilled"]);
  });

  test("records of a former boot are returned separately", async () => {
    await store.write(record("a"));
    const text = readFileSync(pathOf("a"), "utf8");
    writeFileSync(pathOf("a"), text.replace(/"bootId": "[^"]*"/, '"bootId": "a former one"'));
    const { records, stale } = store.load();
    expect(records).toEqual([]);
    expect(stale).toMatchObject([{ identifier: "a", bootId: "a former one" }]);
  });

  test("invalid files are returned by path and left alone, and the others are loaded", async () => {
    await store.write(record("a"));
    const good = JSON.parse(readFileSync(pathOf("a"), "utf8")) as object;
    const bad: Record<string, string> = {
      "not json": "{",
      empty: "",
      "version of the future": JSON.stringify({ ...good, identifier: "version of the future", version: 2 }),
      "field missing": JSON.stringify({ ...good, identifier: "field missing", workers: undefined }),
      "negative pid": JSON.stringify({
        ...good,
        identifier: "negative pid",
        workers: [{ pid: -1, startTime: "1" }],
      }),
      "another's name": JSON.stringify({ ...good, identifier: "../../etc/something" }),
    };
    for (const [name, text] of Object.entries(bad)) writeFileSync(pathOf(name), text);
    mkdirSync(pathOf("a directory"));
    writeFileSync(join(directory, "README"), "not a record");
    const { records, unreadable } = store.load();
    expect(records).toMatchObject([{ identifier: "a" }]);
    expect(unreadable.sort()).toEqual([...Object.keys(bad), "a directory"].map(pathOf).sort());
    expect(readFileSync(pathOf("not json"), "utf8")).toBe("{");
  });
});

describe("processes", () => {
  test("this one is alive; the same pid with another start is not", () => {
    const self = identifyProcess(process.pid);
    if (self === undefined) throw new Error("this process has no identity");
    expect(self.startTime).toMatch(/^\d+$/);
    expect(isAlive(self)).toBe(true);
    expect(isAlive({ ...self, startTime: `${Number(self.startTime) - 1}` })).toBe(false);
  });

  test("a pid without a process has no identity", () => {
    expect(identifyProcess(-1)).toBeUndefined();
    expect(identifyProcess(2 ** 30)).toBeUndefined();
    expect(isAlive({ pid: 2 ** 30, startTime: "1" })).toBe(false);
  });

  test("a process name with parentheses and spaces does not shift the fields", async () => {
    const child = spawn("bash", ["-c", 'echo -n "a) S (b" > /proc/self/comm; echo ready; read -r line'], {
      stdio: ["pipe", "pipe", "ignore"],
    });
    await once(child.stdout, "data");
    const found = identifyProcess(child.pid ?? 0);
    expect(readFileSync(`/proc/${child.pid}/comm`, "utf8").trim()).toBe("a) S (b");
    expect(found?.startTime).toMatch(/^\d{3,}$/);
    expect(found !== undefined && isAlive(found)).toBe(true);
    child.stdin.end("\n");
    await once(child, "exit");
    expect(found !== undefined && isAlive(found)).toBe(false);
  });

  test("a zombie counts as ended: its descriptors are closed", async () => {
    // The shell becomes another program, which never asks for the status of the process that the shell has started.
    const parent = spawn("bash", ["-c", "sleep 1000 & echo $!; exec sleep 1000"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [output] = (await once(parent.stdout, "data")) as [Buffer];
    const pid = Number(output.toString());
    const state = (): string | undefined => {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      return stat.slice(stat.lastIndexOf(")") + 2)[0];
    };
    await until("the other program", () => readFileSync(`/proc/${parent.pid}/comm`, "utf8") === "sleep\n");
    process.kill(pid, "SIGKILL");
    await until("a zombie", () => state() === "Z");
    const identity = identifyProcess(pid);
    expect(identity?.pid).toBe(pid);
    expect(identity !== undefined && isAlive(identity)).toBe(false);
    parent.kill("SIGKILL");
    await once(parent, "exit");
  });
});
