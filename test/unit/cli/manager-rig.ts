/** A directory with an image, and a manager that a test plays. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "vitest";
import { type Answers, type FakeManager, startFakeManager } from "./fake-manager.ts";

// Of the current test.
export let directory = "";
export let runDir = "";
export let image = "";
export let manager: FakeManager | undefined;

/** Gives each test of a file a directory with an image, and a name for a run directory. */
export function useManagerRig(): void {
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "erofs-nbd-cli-"));
    runDir = join(directory, "run");
    image = join(directory, "image");
    writeFileSync(image, "raw bytes ".repeat(100));
  });
  afterEach(async () => {
    await manager?.close();
    manager = undefined;
    rmSync(directory, { recursive: true, force: true });
  });
}

/** Starts a manager with these answers, which ends with the test. */
export async function withManager(answers: Answers): Promise<FakeManager> {
  manager = await startFakeManager(runDir, answers);
  return manager;
}

/** Cuts its connections, as if it was killed. */
export async function killManager(): Promise<void> {
  await manager?.close();
  manager = undefined;
}
