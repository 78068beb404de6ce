/** A directory with an image, a node and a mount point, and a manager and programs in PATH that a test plays. */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "vitest";
import { headWith } from "../../../helpers/images/superblock-bytes.ts";
import { type Answers, deviceStatus, type FakeManager, startFakeManager } from "../fake-manager.ts";

let directory = "";
let manager: FakeManager | undefined;

/** The path of a name in the directory of the current test. */
export const at = (name: string): string => join(directory, name);

/** Gives each test of a file a directory, in which there is a directory of that name to mount at. */
export function useMountRig(mountPoint: string): void {
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), `cli ${mountPoint}-`));
    for (const name of ["bin", mountPoint]) mkdirSync(at(name));
    writeFileSync(at("image"), headWith({ blocksLow: 2 }, 8192));
    writeFileSync(at("nbd0"), "");
  });
  afterEach(async () => {
    await manager?.close();
    manager = undefined;
    rmSync(directory, { recursive: true, force: true });
  });
}

/** Puts a shell script into PATH, where it is found first. */
export function writeProgram(name: string, script: string): void {
  writeFileSync(at(`bin/${name}`), `#!/bin/sh\n${script}\n`);
  chmodSync(at(`bin/${name}`), 0o755);
}

/** The environment of a command: programs of the test first in PATH, and LOG, a file that they write to. */
export const environment = (): NodeJS.ProcessEnv => ({
  PATH: `${at("bin")}:${process.env["PATH"]}`,
  LOG: at("log"),
});

/** What the programs have written. */
export const logged = (): string => (existsSync(at("log")) ? readFileSync(at("log"), "utf8") : "");

/** A manager that attaches and detaches nbd0, with other answers where a test gives them. */
export async function withManager(answers: Answers = {}): Promise<FakeManager> {
  manager = await startFakeManager(at("run"), {
    attach: async () => ({ device: deviceStatus({ device: at("nbd0") }), notes: [] }),
    mounted: async () => ({}),
    detach: async ({ targets }) => ({
      results: [{ target: targets[0] ?? null, device: at("nbd0"), error: null }],
    }),
    ...answers,
  });
  return manager;
}
