/**
 * `erofs-nbd chaos` as its user runs it: faults of every kind on a real kernel, and what it must report.
 *
 * The command checks every byte and every outcome itself. Two tests check that it does: with an image that is not the
 * attached one, and with an interruption.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, expect, test } from "vitest";
import type { ChaosRun, FaultKind } from "../../../src/chaos/run.ts";
import { LIMITS } from "../../limits.mjs";
import { guarded, LINK_DEATH_LINES } from "./leftovers.ts";
import { attach, CLI, cleanUpAfterFailure, detachAll, erofsNbd, isAlive, status } from "./product.ts";
import { many } from "./soak.ts";
import { useImage } from "./takeover-rig.ts";

const KINDS: readonly FaultKind[] = ["worker", "hang", "link", "manager", "both", "upgrade"];
/** A manager takes seconds to start in these slow kernels. */
const FAULTS_OF_EACH = many(3);

const { directory, image } = useImage("chaos", 24 << 20);

describe("chaos", { timeout: LIMITS.longTestMs }, () => {
  // With many deaths in a row the kernel counts its lines instead of logging them.
  guarded(LINK_DEATH_LINES);
  cleanUpAfterFailure();

  test("runs faults of every kind: no wrong byte, no error, every outcome as expected, and a report", async () => {
    const device = await attach(image);
    const report = join(directory, "report.html");
    const kills = `${FAULTS_OF_EACH * KINDS.length}`;
    const options = ["--kills", kills, "--interval", "100", "--baseline", "2000", "--seed", "20"];
    const result = await erofsNbd("chaos", image, ...options, "--json", "--report", report);
    expect(result.code, result.stderr).toBe(0);
    const found = JSON.parse(result.stdout) as ChaosRun;
    expect(found).toMatchObject({
      verdict: "passed",
      problems: [],
      device: device.device,
      image,
      seed: 20,
      what: KINDS,
      totals: { wrong: 0, errors: 0, uncounted: 0 },
    });
    for (const kind of KINDS) {
      const faults = found.faults.filter((fault) => fault.kind === kind);
      const row = found.kinds.find((one) => one.kind === kind);
      expect(faults).toHaveLength(FAULTS_OF_EACH);
      expect(row?.count).toBe(FAULTS_OF_EACH);
      const failovers = (row?.takeovers ?? 0) + (row?.reconnects ?? 0);
      if (kind === "manager") expect(failovers).toBeLessThanOrEqual(FAULTS_OF_EACH);
      else if (kind === "upgrade") expect(failovers).toBe(0);
      else expect(failovers).toBe(FAULTS_OF_EACH);
      expect(faults.every(({ outcome }) => outcome?.result === "recovered")).toBe(true);
    }
    expect(found.kinds.find(({ kind }) => kind === "link")).toMatchObject({ takeovers: 0 });
    expect(found.baseline.reads).toBeGreaterThan(0);
    expect(found.latency.reduce((sum, { reads }) => sum + reads, 0)).toBe(found.totals.reads);
    expect(statSync(report).size).toBeGreaterThan(10_000);
    expect(readFileSync(report, "utf8")).toContain(image);
    await detachAll();
  });

  test("finds an image that differs from the attached one by a byte: exit code 5, and the place", async () => {
    const copy = join(directory, "copy.erofs");
    copyFileSync(image, copy);
    const device = await attach(copy);
    const other = join(directory, "other.erofs");
    const placeBytes = 12_345_678;
    const bytes = readFileSync(image);
    bytes[placeBytes] = (bytes[placeBytes] ?? 0) ^ 0xff;
    writeFileSync(other, bytes);
    // The workers have the attached file open; the reader of the command opens what has its name now.
    renameSync(other, copy);
    const result = await erofsNbd("chaos", device.device ?? "", "--what", "worker", "--kills", "50");
    expect(result.code, result.stderr).toBe(5);
    expect(result.stdout).toMatch(/^failed: /);
    expect(result.stdout).toMatch(new RegExp(`1 differ from the image, the first at ${placeBytes} \\(0x`));
    renameSync(copy, other);
    await detachAll();
  });

  test("ends an interrupted run with exit code 8, a summary, and nothing left behind", async () => {
    const device = await attach(image);
    const words = [CLI, "chaos", device.device ?? "", "--what", "hang", "--kills", "50", "--interval", "50"];
    const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    child.stdout.on("data", (text) => {
      stdout += text;
    });
    const lines = createInterface(child.stderr);
    const ended = once(child, "close");
    const firstFault = new Promise<string>((resolve, reject) => {
      lines.on("line", (line) => line.includes("1/50") && resolve(line));
      void ended.then(() => reject(new Error("The command ended before its first fault")));
    });
    const victim = Number(/worker (\d+)/.exec(await firstFault)?.[1]);
    child.kill("SIGINT");
    expect((await ended)[0]).toBe(8);
    expect(stdout).toMatch(/^passed, interrupted: /);
    expect(isAlive(victim)).toBe(false);
    expect((await status(device.device ?? "")).state).toBe("serving");
    await detachAll();
  });
});
