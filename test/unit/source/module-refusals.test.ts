/** Source modules that an attach refuses, through the real inspector and workers of the build. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { inspectModule } from "../../../src/pool/source-inspector.ts";
import { SOURCE } from "../../helpers/images/module-text.ts";
import { WORKER_PATH } from "../../helpers/processes/built-worker.ts";

// Processes have to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 60_000 });

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-refusals-"));
  // For workers, which are an ordinary user where the test is root.
  chmodSync(directory, 0o755);
  mkdirSync(join(directory, "workers"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const options = () => ({
  stderr: "ignore" as const,
  workerPath: WORKER_PATH,
  directory: join(directory, "workers"),
});

function write(text: string, name: string): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  return path;
}

test.runIf(process.getuid?.() === 0)(
  "a module that workers may not read is refused with what to do",
  async () => {
    const path = write(SOURCE, "secret.mjs");
    chmodSync(path, 0o600);
    await expect(inspectModule(path, {}, 16, options())).rejects.toMatchObject({
      code: "ERR_SOURCE",
      message: expect.stringMatching(/secret\.mjs: permission denied: user \d+ of the workers may not read/),
    });
  },
);

describe("an attach is refused, in one line, when the module", () => {
  const bad: Record<string, [text: string, words: string]> = {
    "is no JavaScript": ["export const = ;", "cannot open source"],
    "exports no open": ["export const close = 1;", "the module exports no function 'open'"],
    "returns nothing": ["export const open = () => {};", "'open' did not return a source"],
    "has no size": ["export const open = () => ({ read() {} });", "its sizeBytes is undefined"],
    "has no bytes": ["export const open = () => ({ sizeBytes: 0, read() {} });", "its sizeBytes is 0"],
    "has half a byte": ["export const open = () => ({ sizeBytes: 1.5, read() {} });", "its sizeBytes is 1.5"],
    "has more bytes than an offset can name": [
      "export const open = () => ({ sizeBytes: 2 ** 53 - 1, read() {} });",
      "its sizeBytes is 9007199254740991: expected at most 9007199254675456",
    ],
    "cannot be read": ["export const open = () => ({ sizeBytes: 1 });", "it has no function 'read'"],
    "has an odd identity": [
      "export const open = () => ({ sizeBytes: 1, read() {}, identity: 5 });",
      "its identity is no string",
    ],
    throws: ["throw new Error('not today\\nnor tomorrow');", "not today"],
    "throws no error": ["export const open = () => { throw 'a word'; };", "a word"],
    "throws when it opens": ["export async function open() { throw new Error('no'); }", ": no"],
    "fails its first read": [
      "export const open = () => ({ sizeBytes: 9, read() { throw new Error('torn'); } });",
      "torn",
    ],
    "ends the process": ["process.exit(0);", "did not live through it"],
    "kills the process": ["process.kill(process.pid, 'SIGKILL');", "was killed by SIGKILL"],
    "never opens": ["export const open = () => new Promise(() => {});", "it did not open within 4 s"],
    "breaks a promise": [
      "Promise.reject(new Error('unheard')); export const open = () => new Promise(() => {});",
      "did not live through it",
    ],
  };

  test.each(Object.keys(bad))("%s", async (name) => {
    const [text, words] = bad[name] as [string, string];
    const refused = inspectModule(write(text, "bad.mjs"), null, 16, options());
    await expect(refused).rejects.toMatchObject({
      code: "ERR_SOURCE",
      message: expect.stringMatching(/^cannot .*$/),
    });
    await expect(refused).rejects.toThrow(words);
  });
});
