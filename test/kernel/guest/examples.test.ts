/**
 * The programs in examples/ as their reader runs them, and the library beneath them where everything dies at once.
 *
 * Runs inside a guest (or with --host). What they print is checked: a README may quote it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  createReadStream,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fillDirectory, makeImage } from "../../helpers/images/erofs-image.ts";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import { allGone, cleanUpAfterFailure, managerPids, run, status, until, workerOf } from "./product.ts";

const example = (name: string): string =>
  fileURLToPath(new URL(`../../../examples/${name}`, import.meta.url));
/** The package as it is installed: what it starts lies beside it. */
const LIBRARY = new URL("../../../dist/src/index.js", import.meta.url).href;

let directory: string;
let image: string;
let parts: string[];
/** A copy where workers may read it, which run as an ordinary user: the project may be where only root can read. */
let source: string;

beforeAll(async () => {
  directory = mkdtempSync("/tmp/examples-");
  image = join(directory, "image.erofs");
  fillDirectory(join(directory, "tree"), 20, 6 << 20);
  await makeImage(image, join(directory, "tree"));
  chmodSync(directory, 0o755);
  for (const name of ["split-image.mjs", "attach-split-image.mjs"])
    copyFileSync(example(name), join(directory, name));
  // What it imports is found from where it lies.
  mkdirSync(join(directory, "node_modules"));
  symlinkSync(fileURLToPath(new URL("../../..", import.meta.url)), join(directory, "node_modules/erofs-nbd"));
  source = join(directory, "split-image.mjs");
  const bytes = readFileSync(image);
  // Ends that fall inside blocks, and one part of a few bytes.
  const cuts = [0, 1_000_001, 1_000_008, 3 << 20, bytes.length];
  parts = cuts.slice(1).map((end, at) => {
    const path = join(directory, `part.${at}`);
    writeFileSync(path, bytes.subarray(cuts[at], end));
    return path;
  });
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** A program at work, and what it has said. */
function start(...words: string[]): { child: ChildProcess; said: () => string } {
  const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  return { child, said: () => text };
}

async function hash(path: string, sizeBytes: number): Promise<string> {
  const sum = createHash("sha256");
  for await (const chunk of createReadStream(path, { end: sizeBytes - 1 })) sum.update(chunk as Buffer);
  return sum.digest("hex");
}

describe("examples", () => {
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("netlink-family shows what the kernel reports of nbd, and a hint for an unknown family", async () => {
    const found = await run(process.execPath, [example("netlink-family.mjs")]);
    expect(found).toMatchObject({ code: 0, stderr: "" });
    expect(found.stdout).toMatch(/^nbd: id \d+, version 1\n {2}group nbd_mc_group: id \d+\n$/);
    const none = await run(process.execPath, [example("netlink-family.mjs"), "no_such_family"]);
    expect(none.code).toBe(2);
    expect(none.stderr).toContain("no_such_family");
  });

  test("attach shows the device, a failover as it happens, and the end at Ctrl-C", async () => {
    const { child, said } = start(example("attach.mjs"), image);
    const ended = once(child, "exit");
    await until("it is attached", () => /, serving, worker \d+\n/.test(said()));
    const [, device = "", worker = ""] = /^(\S+): \S+, \d+ bytes, serving, worker (\d+)\n/.exec(said()) ?? [];
    process.kill(Number(worker), "SIGKILL");
    await until("the failover is told", () => said().includes("recovered"));
    expect(said()).toContain(`recovered (takeover) after worker ${worker} was killed by SIGKILL;`);
    const { managerPid } = await status(device);
    child.kill("SIGINT");
    expect(await ended).toEqual([0, null]);
    expect(said().trimEnd().split("\n").at(-1)).toMatch(new RegExp(`^${device} is gone: `));
    await allGone([managerPid]);
  });

  test("failover-drill runs a manager inside the program, and counts every kill as a failover", async () => {
    const drill = await run(process.execPath, [example("failover-drill.mjs"), image, "2"]);
    expect(drill, drill.stdout + drill.stderr).toMatchObject({ code: 0 });
    expect(drill.stdout.match(/^kill -9 \d+ \(the serving worker\), \d+ reads so far$/gm)).toHaveLength(2);
    expect(drill.stdout.match(/^ {2}recovered by takeover: \d+ reads waited, for [\d.]+ ms$/gm)).toHaveLength(
      2,
    );
    expect(drill.stdout).toMatch(/^\d+ reads, none failed; 2 takeovers, 0 reconnects$/m);
  });

  test("attach-split-image serves a source module byte for byte", async () => {
    const managers = managerPids();
    const result = await run(process.execPath, [join(directory, "attach-split-image.mjs"), ...parts]);
    expect(result, result.stdout + result.stderr).toMatchObject({ code: 0, stderr: "" });
    expect(result.stdout).toMatch(/^\/dev\/nbd\d+: module:\S+split-image\.mjs, 4 parts, \d+ bytes\n/);
    expect(result.stdout).toContain("the device holds what the parts hold\n");
    await until("the manager's end", () => managerPids().every((pid) => managers.includes(pid)));
  });

  test("a source module is served on when manager and worker die together, and the program is told", async () => {
    const { attach } = (await import(LIBRARY)) as typeof import("../../../src/index.ts");
    const device = await attach({ module: source, options: { parts } });
    const heard: string[] = [];
    device.on("managerLost", () => heard.push("lost"));
    device.on("managerFound", (pid) => heard.push(`found ${pid}`));
    const before = await device.status();
    const { managerPid } = before;
    const { length } = readFileSync(image);
    expect(before.source).toEqual({ type: "module", uri: `module:${source}`, sizeBytes: length });
    expect(await hash(device.device, length)).toBe(await hash(image, length));
    // A manager that saw its worker die would have begun to do something about it.
    process.kill(managerPid, "SIGSTOP");
    for (const pid of [workerOf(before), managerPid]) process.kill(pid, "SIGKILL");
    await until("the next manager", () => heard.length >= 2);
    const now = await device.status();
    expect(heard).toEqual(["lost", `found ${now.managerPid}`]);
    expect(now).toMatchObject({ identifier: device.identifier, source: before.source });
    // Past the page cache: what was read before must not be the answer.
    writeFileSync("/proc/sys/vm/drop_caches", "3");
    expect(await hash(device.device, length)).toBe(await hash(image, length));
    const { counters } = await device.status();
    expect(counters.takeovers + counters.reconnects).toBe(1);
    expect([counters.failedFailovers, counters.readErrors]).toEqual([0, 0]);
    await device.detach();
    expect(device.isDetached).toBe(true);
    await allGone([now.managerPid]);
  });
});
