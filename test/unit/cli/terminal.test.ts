/**
 * Commands that are handed names, notes and causes with all that a terminal obeys: their output does nothing to it, and
 * no line of it is another program's.
 */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { headWith } from "../../helpers/images/superblock-bytes.ts";
import { deviceStatus, type FakeManager, Fault, startFakeManager } from "./fake-manager.ts";
import { type CliResult, runCli, startCli } from "./run-cli.ts";

/** Clears the screen in two ways, turns the direction of writing, begins a line of its own. */
const HOSTILE = "a\u001b[2J\u009b2J\u202e\r\n/dev/nbd9 forged";
const SHOWN = "a\\x1b[2J\\x9b2J\\u202e\\x0d\\n";

let directory = "";
let manager: FakeManager | undefined;
const at = (name: string): string => join(directory, name);
const run = (...args: string[]): Promise<CliResult> => runCli(["--run-dir", at("run"), ...args]);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-terminal-"));
  for (const name of ["bin", "mnt", "dir"]) mkdirSync(at(name));
  writeFileSync(at("image"), headWith({ blocksLow: 2 }, 8192));
  writeFileSync(at("nbd0"), "");
});
afterEach(async () => {
  await manager?.close();
  manager = undefined;
  rmSync(directory, { recursive: true, force: true });
});

/** The text is there, but as text. */
function expectTame(...texts: string[]): void {
  for (const text of texts) {
    expect(text).not.toMatch(/[^\P{Cc}\n]|\p{Bidi_Control}/u);
    expect(text).not.toMatch(/^\/dev\/nbd9/m);
    expect(text).toContain(SHOWN);
  }
}

test("attach: the manager's notes and its refusal", async () => {
  manager = await startFakeManager(at("run"), {
    attach: async ({ index }) => {
      if (index === 1)
        throw new Fault({ code: "ERR_X", message: `cannot ${HOSTILE}`, hint: HOSTILE, exitCode: 2 });
      return { device: deviceStatus(), notes: [HOSTILE] };
    },
  });
  const { stdout, stderr } = await run("attach", at("image"));
  expect(stdout).toBe("/dev/nbd0\n");
  expectTame(stderr, (await run("attach", "--device", "1", at("image"))).stderr);
});

test("an image's own name in an error, and a word of the command line", async () => {
  expectTame((await run("attach", `./${HOSTILE}`)).stderr, (await run("attach", `--${HOSTILE}`)).stderr);
});

test("status: the cause of a failover, and notes", async () => {
  const lastFailover = {
    result: "recovered",
    level: "takeover",
    cause: HOSTILE,
    causeClass: "worker-exit",
    stallMs: 1,
    at: "2026-01-02T03:04:05.678Z",
    strandedReads: 0,
  } as const;
  const devices = [deviceStatus({ lastFailover })];
  manager = await startFakeManager(at("run"), { status: async () => ({ devices, notes: [HOSTILE] }) });
  const { stdout, stderr } = await run("status");
  expectTame(stdout, stderr);
});

test("detach: what was named", async () => {
  manager = await startFakeManager(at("run"), {
    detach: async ({ targets }) => ({ results: [{ target: targets[0] ?? null, device: null, error: null }] }),
  });
  expectTame((await run("detach", `/${HOSTILE}`)).stdout);
});

test("mount: what mount(8) says although it mounts", async () => {
  manager = await startFakeManager(at("run"), {
    attach: async () => ({ device: deviceStatus({ device: at("nbd0") }), notes: [] }),
    mounted: async () => ({}),
  });
  writeFileSync(at("words"), HOSTILE);
  writeFileSync(at("bin/mount"), `#!/bin/sh\ncat '${at("words")}' >&2\nexit 16\n`);
  chmodSync(at("bin/mount"), 0o755);
  const command = startCli(["--run-dir", at("run"), "mount", at("image"), at("mnt")], {
    env: { PATH: `${at("bin")}:${process.env["PATH"]}` },
  });
  const { stderr } = await command.ended;
  expect(stderr).toBe("note: a\\x1b[2J\\x9b2J\\u202e\nnote: /dev/nbd9 forged\n");
});

test("serve: the image's path", async () => {
  const name = HOSTILE.replaceAll("/", "_");
  writeFileSync(at(name), "raw");
  const command = startCli(["serve", "--socket", at("s"), at(name)]);
  await command.until("stderr", /serving/);
  await command.until("stderr", /at nbd\+unix:\S+\n/);
  command.child.kill("SIGTERM");
  expectTame((await command.ended).stderr);
});

test("doctor and install-units: a path", async () => {
  expectTame((await run("--run-dir", at(HOSTILE), "doctor")).stdout);
  expectTame((await run("install-units", "--dry-run", "--prefix", at(HOSTILE))).stdout);
});
