/**
 * The built `chaos` command without a kernel: what it refuses, and with which exit code, before it does anything.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ChaosRun } from "../../../src/chaos/run.ts";
import type { DeviceStatus } from "../../../src/control/protocol.ts";
import { deviceStatus, type FakeManager, startFakeManager } from "../cli/fake-manager.ts";
import { type CliResult, runCli } from "../cli/run-cli.ts";

/** No kernel has that many. */
const ABSENT = 987_654;

let directory: string;
let runDir: string;
let manager: FakeManager | undefined;
const run = (...args: string[]): Promise<CliResult> => runCli(["--run-dir", runDir, "chaos", ...args]);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "chaos-command-"));
  runDir = join(directory, "run");
});
afterEach(async () => {
  await manager?.close();
  manager = undefined;
  rmSync(directory, { recursive: true, force: true });
});

async function withDevices(...devices: DeviceStatus[]): Promise<FakeManager> {
  manager = await startFakeManager(runDir, {
    watch: () => ({}),
    status: () => ({ devices, notes: [] }),
  });
  return manager;
}

describe("refused before the manager is asked", () => {
  test.each([
    [["nbd0", "--kills", "0"], /^erofs-nbd: invalid --kills '0': expected an integer from 1 /],
    [
      ["nbd0", "--what", "worker,meteor"],
      /invalid --what 'meteor': expected a comma-separated list of worker, hang, link/,
    ],
    [["nbd0", "--what", ""], /invalid --what '': /],
    [["nbd0", "--seed", "4294967296"], /invalid --seed '4294967296': expected an integer from 0 /],
    [["nbd0", "--depth", "300"], /invalid --depth '300': /],
    [["nbd0", "--depth", "4", "--large", "5"], /invalid --large '5': expected an integer from 0 to 4/],
    [["nbd0", "--baseline", "100"], /invalid --baseline '100': expected an integer from 2000 /],
    [
      ["nbd0", "--report", "/nowhere/at/all.html"],
      /cannot write a report to \/nowhere\/at\/all.html: ENOENT/,
    ],
    [["nbd0", "--report", "/tmp"], /cannot write a report to \/tmp: it is not a file name/],
    [[], /missing required argument 'TARGET'/],
  ])("%j", async (args, message) => {
    const { code, stdout, stderr } = await run(...args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(message);
    expect(existsSync(runDir)).toBe(false);
  });

  test("without being root", async () => {
    const { code, stderr } = await runCli(["--run-dir", runDir, "chaos", "nbd0"], { unprivileged: true });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^erofs-nbd: must be run as root$/m);
  });
});

describe("refused when the device is known", () => {
  test("nothing is attached", async () => {
    const { code, stderr } = await run("nbd0");
    expect(code).toBe(3);
    expect(stderr).toMatch(/^erofs-nbd: cannot find the device: nothing is attached$/m);
  });

  test.each<[string, DeviceStatus[], number, RegExp]>([
    [
      "attached by ioctl",
      [deviceStatus({ interface: "ioctl" })],
      1,
      /it is attached by ioctl, where a dead worker/,
    ],
    ["in trouble already", [deviceStatus({ state: "stalled" })], 2, /to the test: it is stalled/],
    [
      "one of two with the same image",
      [deviceStatus(), deviceStatus({ device: "/dev/nbd1", index: 1 })],
      1,
      /cannot choose between \/dev\/nbd0 and \/dev\/nbd1: /,
    ],
  ])("%s", async (_, devices, wantedCode, message) => {
    const { requests } = await withDevices(...devices);
    const { code, stdout, stderr } = await run("/images/tree.erofs");
    expect({ code, stdout }).toEqual({ code: wantedCode, stdout: "" });
    expect(stderr).toMatch(message);
    expect(requests.map(({ method }) => method)).toEqual(["watch", "status"]);
  });
});

test("a device that cannot be read ends the run with 5: the problem, the run as JSON, the report", async () => {
  const image = join(directory, "image");
  mkdirSync(runDir, { mode: 0o700 });
  writeFileSync(image, "x".repeat(4096));
  const source = { type: "file", uri: image, sizeBytes: 4096 } as const;
  await withDevices(deviceStatus({ device: `/dev/nbd${ABSENT}`, index: ABSENT, source, sizeBytes: 4096 }));
  const report = join(directory, "report.html");
  const { code, stdout, stderr } = await run(`nbd${ABSENT}`, "--seed", "5", "--json", "--report", report);
  expect(code).toBe(5);
  const found = JSON.parse(stdout) as ChaosRun;
  expect(found).toMatchObject({
    device: `/dev/nbd${ABSENT}`,
    seed: 5,
    what: ["worker", "hang", "link", "manager", "both", "upgrade"],
    depth: 8,
    faults: [],
    verdict: "failed",
    problems: [expect.stringMatching(/^the reader cannot begin: ENOENT/)],
  });
  expect(stderr).toMatch(/^seed 5: 20 faults \(worker, hang, link, manager, both, upgrade\) on nbd987654$/m);
  expect(stderr).toMatch(/^problem: the reader cannot begin: ENOENT/m);
  expect(existsSync(report)).toBe(true);
});
