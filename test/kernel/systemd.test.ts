/**
 * erofs-nbd as a service of systemd, on Linux 6.12 with systemd as process 1: boot, restarts, watchdog, shutdown.
 *
 * The guest boots once, while this file is collected; systemd/story.mjs tells step by step what happened there, and
 * each step is a test here. What comes after the story, the shutdown, is judged by the kernel log, into which systemd
 * writes, and by what its last hook saw.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { removeIfInterrupted } from "../../tools/litter.mjs";
import { fillDirectory, makeImage } from "../helpers/images/erofs-image.ts";
import { LIMITS } from "../limits.mjs";
import { boot, PROJECT_DIR } from "./lab/boot.mjs";

const TIME_LIMIT_MS = LIMITS.systemdMs;
const SYSTEMD = "/lib/systemd/systemd";

interface Step {
  readonly name: string;
  readonly problem: string | null;
}

const filter = (process.env["EROFS_NBD_GUEST_FILTER"] ?? "").split(" ").filter((word) => word !== "");
const isWanted = filter.length === 0 || filter.some((word) => "systemd.test.ts".includes(word));
const directory = isWanted ? makeDirectory() : "";
const problem = isWanted ? await removedIfInterrupted(runGuest) : undefined;
const failed: string[] = [];

function makeDirectory(): string {
  const place = join(PROJECT_DIR, ".cache", "kernel-tests");
  mkdirSync(place, { recursive: true });
  return mkdtempSync(join(place, "systemd-"));
}

/** An interrupted run leaves nothing. */
async function removedIfInterrupted<T>(work: () => Promise<T>): Promise<T> {
  const keep = removeIfInterrupted(directory);
  try {
    return await work();
  } finally {
    keep();
  }
}

/** Undefined, or why the guest did not come to its end. */
async function runGuest(): Promise<string | undefined> {
  if (!existsSync(SYSTEMD)) return `${SYSTEMD} is missing (install systemd)`;
  fillDirectory(join(directory, "tree"), 20, 4 << 20);
  await makeImage(join(directory, "image.erofs"), join(directory, "tree"));
  try {
    const script = join(PROJECT_DIR, "test/kernel/systemd/init.sh");
    await boot({
      kernel: "6.12",
      command: ["/bin/sh", script, process.execPath, PROJECT_DIR],
      asInit: true,
      outputDir: directory,
      timeoutMs: TIME_LIMIT_MS,
    });
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const text = (name: string): string =>
  existsSync(join(directory, name)) ? readFileSync(join(directory, name), "utf8") : "";

/** Where a line of the kernel log is that fits; fails when there is none. */
function lineOf(log: readonly string[], pattern: RegExp): number {
  const at = log.findLastIndex((line) => pattern.test(line));
  expect(at, `${pattern} in the kernel log`).toBeGreaterThanOrEqual(0);
  return at;
}

afterAll(() => {
  // What a failed run left is evidence.
  if (failed.length === 0) rmSync(directory, { recursive: true, force: true });
});

describe.runIf(isWanted)("linux 6.12 with systemd", () => {
  const check = (name: string, act: () => void): void => {
    test(name, () => {
      failed.push(name);
      act();
      failed.pop();
    });
  };

  check("the guest boots, and ends by its own shutdown", () => {
    expect(problem, `evidence: ${directory}`).toBeUndefined();
  });

  const steps = text("story.jsonl")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Step);
  const names = [
    ...readFileSync(new URL("systemd/story.mjs", import.meta.url), "utf8").matchAll(/^ {4}"(.+)",$/gm),
  ];
  for (const [, name = ""] of names) {
    check(name, () => {
      const step = steps.find((one) => one.name === name);
      expect(step, `it was not told (evidence: ${directory})`).toBeDefined();
      expect(step?.problem).toBeNull();
    });
  }

  check(
    "shutdown: the image is unmounted while it is served, then the manager ends, then the workers",
    () => {
      const log = text("dmesg").split("\n");
      const unmounted = lineOf(log, /systemd\[1\]: Unmounted .*mnt.image/);
      const ending = lineOf(log, /systemd\[1\]: Stopping erofs-nbd/);
      const stopped = lineOf(log, /systemd\[1\]: Stopped erofs-nbd/);
      expect(unmounted).toBeLessThan(ending);
      expect(ending).toBeLessThan(stopped);
      const end = text("at-the-end");
      expect(end).toMatch(/^mounts:\ndevices:\nprocesses:\n$/);
    },
  );

  check("shutdown: the kernel says what it says at any umount, and nothing else", () => {
    const log = text("dmesg").split("\n");
    expect(log.filter((line) => /BUG|WARNING|Oops|I\/O error|blocked for more/.test(line))).toEqual([]);
    const end = lineOf(log, /the story ends/);
    const said = log.slice(end).filter((line) => /^block nbd|^nbd|^erofs/.test(line));
    expect(said).toEqual([
      "block nbd0: NBD_DISCONNECT",
      "block nbd0: Disconnected due to user request.",
      "block nbd0: shutting down sockets",
    ]);
  });
});
