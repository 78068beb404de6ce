/** Two images, and commands in a shell that may be in another mount namespace or under another root. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { beforeAll, expect } from "vitest";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { processStat } from "../../../src/sys/process-stat.ts";
import { makeImage } from "../../helpers/images/erofs-image.ts";
import { type CliFixture, cliFixture } from "./cli-fixture.ts";
import { CLI, killTogether, run, statuses, statusWhen, until, untilAsync, workersOf } from "./product.ts";

/** The package as it is installed. */
export const LIBRARY: string = new URL("../../../dist/src/index.js", import.meta.url).href;
/** The partition scan takes the small image for a table. */
export const PARTITION_LINES: RegExp =
  /^(Dev )?nbd\d+: (unable to read RDB block|partition table beyond EOD)/;

/** Of the test file that has called `useImages`. */
export let files: CliFixture;
/** Another image of the same size, which lies somewhere else. */
export const other = (): string => files.at("other.erofs");

/** Makes both images for the tests of a file. */
export function useImages(): void {
  files = cliFixture();
  beforeAll(async () => {
    mkdirSync(files.at("other-tree"));
    writeFileSync(files.at("tree/which"), "first");
    writeFileSync(files.at("other-tree/which"), "other");
    await makeImage(files.image, files.at("tree"));
    await makeImage(other(), files.at("other-tree"));
    // A guest's own /dev may have neither.
    for (const [path, target] of [
      ["/dev/stdin", "/proc/self/fd/0"],
      ["/dev/fd", "/proc/self/fd"],
    ] as const)
      if (!existsSync(path)) symlinkSync(target, path);
  });
}

/** The words of the command line in a shell where `$CLI` is the program. */
export function shell(script: string, ...before: readonly string[]): ReturnType<typeof run> {
  const [program = "", ...words] = [...before, "sh", "-ec", script];
  return run(program, words, {
    CLI: `${process.execPath} ${CLI}`,
    IMAGE: files.image,
    OTHER: other(),
    MNT: files.mountPoint,
  });
}

export async function attachIn(script: string, ...before: readonly string[]): Promise<DeviceStatus> {
  const { code, stdout, stderr } = await shell(script, ...before);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as DeviceStatus;
}

/** The device has this file's bytes, and nothing of another. */
export function expectBytes({ device, sizeBytes }: DeviceStatus, path: string): void {
  const wanted = readFileSync(path);
  const got = readFileSync(device ?? "");
  expect(got.length).toBe(sizeBytes);
  expect(got.subarray(0, wanted.length).equals(wanted)).toBe(true);
}

/** The whole device past the page cache: it waits as long as no worker serves it. */
export async function startReading({ device }: DeviceStatus): Promise<() => Promise<Buffer>> {
  const child = spawn("dd", [`if=${device}`, "bs=64k", "iflag=direct", "status=none"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const parts: Buffer[] = [];
  child.stdout.on("data", (part: Buffer) => parts.push(part));
  const read = once(child, "close").then(([code]) => {
    expect(code).toBe(0);
    return Buffer.concat(parts);
  });
  // The kernel counts no read in flight while it has no link for it.
  await until("a read that waits", () => processStat(child.pid ?? 0)?.state === "D");
  return () => read;
}

export async function loseEverything({ managerPid, device }: DeviceStatus): Promise<DeviceStatus> {
  await until("both workers", () => workersOf(managerPid).length === 2);
  await killTogether(managerPid, ...workersOf(managerPid));
  await untilAsync("a successor", async () => (await statuses().catch(() => [])).length > 0);
  return statusWhen(device ?? "", "the end of its links", ({ links }) => links.length === 0);
}
