/** probe.ts: one block, read by dd, or by what stands in for it. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { probeDevice } from "../../../src/supervisor/probe.ts";
import { until } from "./waiting.ts";

const NEVER = new AbortController().signal;
const PATH = process.env["PATH"];
let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-probe-"));
});
afterEach(() => {
  process.env["PATH"] = PATH;
  rmSync(directory, { recursive: true });
});

/** Puts a script before the real dd. */
function putDd(script: string): void {
  const path = join(directory, "dd");
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  process.env["PATH"] = `${directory}:${PATH}`;
}

describe("probeDevice", () => {
  test("asks for one block of the device, past the page cache, into nowhere", async () => {
    putDd(`echo "$@" > ${directory}/arguments`);
    expect(await probeDevice(12, NEVER)).toEqual({ ok: true });
    expect(readFileSync(join(directory, "arguments"), "utf8").trim()).toBe(
      "if=/dev/nbd12 of=/dev/null bs=4096 count=1 iflag=direct",
    );
  });

  test("the real dd: the first line of its complaint is the reason, in English", async () => {
    const result = await probeDevice(0, NEVER, join(directory, "nothing"));
    expect(result).toEqual({
      ok: false,
      why: expect.stringMatching(/^dd: failed to open .*nothing.*: No such file or directory$/),
    });
  });

  test("a dd that fails without a word of its own", async () => {
    putDd("echo something else >&2; exit 3");
    expect(await probeDevice(0, NEVER)).toEqual({ ok: false, why: "dd ended with 3" });
  });

  test("no dd at all", async () => {
    process.env["PATH"] = directory;
    expect(await probeDevice(0, NEVER)).toEqual({ ok: false, why: expect.stringContaining("ENOENT") });
  });

  test("aborted before: nothing is started", async () => {
    putDd(`touch ${directory}/started`);
    expect(await probeDevice(0, AbortSignal.abort())).toEqual({ ok: false, why: "aborted" });
    expect(() => readFileSync(join(directory, "started"))).toThrow("ENOENT");
  });

  test("aborted in the middle: it is over at once, and the process is killed", async () => {
    putDd(`echo $$ > ${directory}/pid.new; mv ${directory}/pid.new ${directory}/pid; exec sleep 1000`);
    const stop = new AbortController();
    const probed = probeDevice(0, stop.signal);
    const pid = (): string => {
      try {
        return readFileSync(join(directory, "pid"), "utf8").trim();
      } catch {
        return "";
      }
    };
    await until("dd has started", () => pid() !== "");
    stop.abort();
    expect(await probed).toEqual({ ok: false, why: "the read did not come back in time" });
    await until("dd is gone", () => {
      try {
        process.kill(Number(pid()), 0);
        return false;
      } catch {
        return true;
      }
    });
  });
});
