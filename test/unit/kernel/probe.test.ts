/** probe.ts: one block, read by dd or by a script in its place. */
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Prober } from "../../../src/kernel/probe.ts";
import { until } from "../../helpers/until.ts";

const NEVER = new AbortController().signal;
const PATH = process.env["PATH"];
/** Seconds for a read that hangs; a number that no other process uses. */
const LONG = `1000.${process.pid}`;
let directory: string;
let prober: Prober;

beforeEach(() => {
  prober = new Prober();
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-probe-"));
});
afterEach(() => {
  prober.close();
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

describe("Prober", () => {
  test("reads one block of the device past the page cache, into /dev/null", async () => {
    putDd(`echo "$@" > ${directory}/arguments`);
    expect(await prober.probe(12, NEVER)).toEqual({ ok: true });
    expect(readFileSync(join(directory, "arguments"), "utf8").trim()).toBe(
      "if=/dev/nbd12 of=/dev/null bs=4096 count=1 iflag=direct status=none",
    );
  });

  test("the real dd: the first line of its error output is the reason, in English", async () => {
    const result = await prober.probe(0, NEVER, join(directory, "nothing"));
    expect(result).toEqual({
      ok: false,
      why: expect.stringMatching(/^dd: failed to open .*nothing.*: No such file or directory$/),
    });
  });

  test("a dd that fails without error output", async () => {
    putDd("echo something else >&2; exit 3");
    expect(await prober.probe(0, NEVER)).toEqual({ ok: false, why: "dd ended with 3" });
  });

  test("dd is not installed", async () => {
    process.env["PATH"] = directory;
    expect(await prober.probe(0, NEVER)).toEqual({ ok: false, why: "dd is not installed" });
  });

  test("aborted before: nothing is started", async () => {
    putDd(`touch ${directory}/started`);
    expect(await prober.probe(0, AbortSignal.abort())).toEqual({ ok: false, why: "aborted" });
    expect(() => readFileSync(join(directory, "started"))).toThrow("ENOENT");
  });

  test("aborted in the middle: it ends at once, though the read does not", async () => {
    putDd(`echo $$ > ${directory}/pid.new; mv ${directory}/pid.new ${directory}/pid; exec sleep ${LONG}`);
    const stop = new AbortController();
    const probed = prober.probe(0, stop.signal);
    await until("dd has started", () => existsSync(join(directory, "pid")));
    stop.abort();
    expect(await probed).toEqual({ ok: false, why: "the read did not come back in time" });
    process.kill(Number(readFileSync(join(directory, "pid"), "utf8")), "SIGKILL");
  });

  test("many at once, one of which hangs: each has its own answer, and no zombie is left", async () => {
    putDd(`case "$1" in *nbd7) exec sleep ${LONG};; *nbd8) echo "dd: no" >&2; exit 1;; esac`);
    const stop = new AbortController();
    const hanging = prober.probe(7, stop.signal);
    const others = Array.from({ length: 30 }, (_, at) => prober.probe(at + 8, new AbortController().signal));
    const [eighth, ...rest] = await Promise.all(others);
    expect(eighth).toEqual({ ok: false, why: "dd: no" });
    expect(rest.every(({ ok }) => ok)).toBe(true);
    await until("the readers' end", () => childrenOf(prober.pid).length === 0);
    stop.abort();
    expect((await hanging).ok).toBe(false);
    for (const pid of sleepers()) process.kill(pid, "SIGKILL");
  });

  test("a shell that was killed: pending reads fail, and the next read starts another one", async () => {
    putDd(`exec sleep ${LONG}`);
    const waiting = prober.probe(0, NEVER);
    await until("the shell", () => prober.pid !== undefined && sleepers().length > 0);
    process.kill(prober.pid ?? -1, "SIGKILL");
    expect(await waiting).toEqual({ ok: false, why: expect.stringContaining("has ended") });
    for (const pid of sleepers()) process.kill(pid, "SIGKILL");
    putDd("exit 0");
    expect(await prober.probe(0, NEVER)).toEqual({ ok: true });
  });
});

function processes(): Array<{ pid: number; parent: number; argv: string[] }> {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, "utf8");
        const argv = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0");
        return [
          { pid: Number(name), parent: Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]), argv },
        ];
      } catch {
        // It has just ended.
        return [];
      }
    });
}

/** Zombies included. */
const childrenOf = (parent: number | undefined): number[] =>
  processes()
    .filter((one) => one.parent === parent)
    .map(({ pid }) => pid);

/** Processes that stand in for reads that hang. */
const sleepers = (): number[] =>
  processes()
    .filter(({ argv }) => argv.includes(LONG))
    .map(({ pid }) => pid);
