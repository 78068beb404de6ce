/**
 * Whether the manager's unit is installed: what is found first in systemd's own order decides, and a mask is found as
 * any unit is. And how long its start is waited for, with a systemctl of the test's own.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isInstalled, SERVICE, startUnit } from "../../../../src/control/reach/system-service.ts";
import { until } from "../../../helpers/until.ts";

let top: string;
beforeEach(() => {
  top = mkdtempSync(join(tmpdir(), "system-service-"));
});
afterEach(() => rmSync(top, { recursive: true, force: true }));

/** In the order in which they count. */
const DIRECTORIES = [
  "etc/systemd/system",
  "run/systemd/system",
  "usr/local/lib/systemd/system",
  "usr/lib/systemd/system",
];
function place(directory: string): string {
  const path = join(top, directory, SERVICE);
  mkdirSync(dirname(path), { recursive: true });
  return path;
}

describe("isInstalled", () => {
  test("nothing there", () => {
    expect(isInstalled(top)).toBe(false);
  });

  test.each(DIRECTORIES)("a unit in %s, unless it is masked before that", (directory) => {
    writeFileSync(place(directory), "");
    expect(isInstalled(top)).toBe(true);
    for (const [at, other] of DIRECTORIES.entries()) {
      if (other === directory) continue;
      const mask = place(other);
      symlinkSync("/dev/null", mask);
      expect(isInstalled(top), other).toBe(at > DIRECTORIES.indexOf(directory));
      rmSync(mask);
    }
  });
});

describe("startUnit", () => {
  const path = process.env["PATH"];
  afterEach(() => {
    process.env["PATH"] = path;
  });

  /** A systemctl that says so much of the unit, and whose `start` ends so when the file `go` is there. */
  function systemctl(activeState: string, startEnd: string): void {
    const start = `until [ -e "${top}/go" ]; do sleep 0.05; done; ${startEnd}`;
    const script = `#!/bin/sh\ncase $1 in show) echo ${activeState}; echo >>"${top}/looks";; *) ${start};; esac\n`;
    writeFileSync(join(top, "systemctl"), script, { mode: 0o755 });
    process.env["PATH"] = `${top}:${path}`;
  }
  const go = (): void => writeFileSync(join(top, "go"), "");
  const looks = (): number => {
    const file = join(top, "looks");
    return existsSync(file) ? readFileSync(file, "utf8").length : 0;
  };
  const TIMES = { queuedMs: 100, noticeMs: 40, lookMs: 20 };

  test("a service that is being started is waited for, however long, and that is said once", async () => {
    systemctl("activating", "exit 0");
    const told: string[] = [];
    const started = startUnit({ waiting: (text) => told.push(text) }, TIMES);
    await until("far more looks than a queued job gets", () => looks() > 10);
    go();
    expect(await started).toBeUndefined();
    expect(told).toEqual([`waiting for ${SERVICE} to start; look with 'systemctl status ${SERVICE}'`]);
  });

  test("a start that fails: what systemctl says", async () => {
    systemctl("failed", "echo Job failed >&2; exit 1");
    go();
    expect(await startUnit({ waiting: () => {} }, TIMES)).toBe("Job failed");
  });

  test("a job that does not get its turn is not waited for", async () => {
    systemctl("inactive", "exit 0");
    expect(await startUnit({ waiting: () => {} }, TIMES)).toBe("its start waits for other units");
    go();
  });

  test("interrupted", async () => {
    systemctl("activating", "exit 0");
    const stop = new AbortController();
    const started = startUnit({ waiting: () => {} }, { ...TIMES, signal: stop.signal });
    stop.abort();
    await expect(started).rejects.toMatchObject({ code: "ERR_INTERRUPTED" });
    go();
  });
});
