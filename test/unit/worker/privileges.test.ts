/**
 * Which account a worker becomes, and that one which keeps a right of root does not serve. That it keeps none in the
 * ordinary way is tested in a kernel, where there is a root to stop being.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { constants, copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { close } from "../../../src/sys/libc/files.ts";
import { SOCK_NONBLOCK, SOCK_SEQPACKET, socketPair } from "../../../src/sys/libc/sockets.ts";
import { Channel } from "../../../src/sys/sockets/channel.ts";
import { listenUnix } from "../../../src/sys/sockets/listen.ts";
import { chooseAccount, describeRights } from "../../../src/worker/privileges.ts";
import type { FromWorker, ToWorker } from "../../../src/worker-protocol/messages.ts";
import { until } from "../../helpers/until.ts";

// Processes have to start: on a busy machine that takes longer than a unit test may.
vi.setConfig({ testTimeout: 30_000 });

const MAIN = fileURLToPath(new URL("../../../dist/src/worker/main.js", import.meta.url));

const NOBODY = { uid: 65_534, gid: 65_534 };

test.each([
  [
    "its own account",
    "root:x:0:0::/:/bin/sh\nerofs-nbd:x:990:991::/:/sbin/nologin\n",
    { uid: 990, gid: 991 },
  ],
  ["nobody where there is none", "root:x:0:0::/:/bin/sh\n", NOBODY],
  ["nobody on a system without accounts", "", NOBODY],
  ["not root, whatever the account says", "erofs-nbd:x:0:0::/:/bin/sh\n", NOBODY],
  ["not root's group either", "erofs-nbd:x:990:0::/:/bin/sh\n", NOBODY],
  ["nobody where the line is broken", "erofs-nbd:x:abc:\nerofs-nbd\n", NOBODY],
  ["not one with a similar name", "erofs-nbd2:x:990:991::/:/bin/sh\n", NOBODY],
])("%s", (_, passwd, account) => {
  expect(chooseAccount(passwd)).toEqual(account);
});

describe("what a thread has that a worker must not have", () => {
  const account = { uid: 990, gid: 991 };
  const status = (change: Readonly<Record<string, string>> = {}): string =>
    Object.entries({
      Name: "node",
      Uid: "990\t990\t990\t990",
      Gid: "991\t991\t991\t991",
      CapInh: "0000000000200000",
      CapPrm: "0000000000000000",
      CapEff: "0000000000000000",
      CapBnd: "000001ffffffffff",
      CapAmb: "0000000000000000",
      ...change,
    })
      .map(([name, value]) => `${name}:\t${value}\n`)
      .join("");

  test("nothing, where all is given up", () => {
    expect(describeRights(status(), account)).toBeUndefined();
  });

  test.each([
    ["Uid", "0\t990\t990\t990"],
    ["Uid", "990\t990\t0\t990"],
    ["Uid", "990\t990\t990\t0"],
    ["Uid", "65534\t65534\t65534\t65534"],
    ["Gid", "991\t0\t991\t991"],
    ["CapPrm", "0000000000200000"],
    ["CapEff", "000001ffffffffff"],
    ["CapAmb", "00000000000000c0"],
    ["CapAmb", "a000000000000000"],
    ["CapPrm", ""],
  ])("%s %j", (name, value) => {
    expect(describeRights(status({ [name]: value }), account)).toMatch(name);
  });

  test("capabilities of any account; an account only where one was to be taken", () => {
    const changed = { Uid: "1000\t1000\t1000\t1000" };
    expect(describeRights(status(changed), undefined)).toBeUndefined();
    expect(describeRights(status({ ...changed, CapEff: "0000000000000001" }), undefined)).toMatch("CapEff");
  });

  test("whatever is not told", () => {
    expect(describeRights("Name:\tnode\n", undefined)).toMatch("CapPrm is unknown");
  });
});

describe.runIf(process.getuid?.() === 0)("a worker that is born with odd rights", () => {
  /** Starts one through setpriv(1); resolves once it says that it is ready, or has ended. */
  async function start(
    words: readonly string[],
    body: (child: ChildProcess, isReady: boolean, stderr: string) => Promise<void> | void,
    node: string = process.execPath,
  ): Promise<void> {
    const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-privileges-"));
    const [ours, theirs] = socketPair(SOCK_SEQPACKET, SOCK_NONBLOCK);
    const listening = listenUnix(join(directory, "reunion.sock"), SOCK_SEQPACKET);
    const child = spawn("setpriv", [...words, node, MAIN], {
      stdio: ["ignore", "ignore", "pipe", theirs, listening],
    });
    close(theirs);
    close(listening);
    let stderr = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    const closed = once(child, "close");
    const heard: FromWorker[] = [];
    const channel = new Channel<FromWorker, ToWorker>(ours, {
      message: (message) => heard.push(message),
      end: () => {},
    });
    try {
      await until("it serves or ends", () => heard.length > 0 || child.exitCode !== null);
      if (heard.length === 0) await closed;
      const isReady = heard.length > 0;
      await body(child, isReady, stderr);
    } finally {
      channel.close();
      child.kill("SIGKILL");
      await closed;
      rmSync(directory, { recursive: true, force: true });
    }
  }

  test("keeps none of a manager that is not root: ambient capabilities are shed, on every thread", async () => {
    const user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    const rights = ["--inh-caps", "+sys_admin", "--ambient-caps", "+sys_admin"];
    await start([...user, ...rights], (child, isReady, stderr) => {
      expect({ isReady, stderr }).toEqual({ isReady: true, stderr: "" });
      const threads = readdirSync(`/proc/${child.pid}/task`);
      expect(threads.length).toBeGreaterThan(1);
      for (const thread of threads) {
        const status = readFileSync(`/proc/${child.pid}/task/${thread}/status`, "utf8");
        expect(status).not.toMatch(/^Cap(Inh|Prm|Eff|Amb):\s*0*[1-9a-f]/m);
        expect(status).toMatch(/^NoNewPrivs:\s*1$/m);
      }
    });
  });

  test("serves with a Node.js in a directory that only root may enter, such as /root", async () => {
    const closed = mkdtempSync(join(tmpdir(), "erofs-nbd-closed-"));
    try {
      const node = join(closed, "node");
      copyFileSync(process.execPath, node, constants.COPYFILE_FICLONE);
      const serves = (_: ChildProcess, isReady: boolean, stderr: string): void => {
        expect({ isReady, stderr }).toEqual({ isReady: true, stderr: "" });
      };
      await start(["--clear-groups"], serves, node);
    } finally {
      rmSync(closed, { recursive: true });
    }
  });

  test("ends, and says why, where root keeps its capabilities when it becomes a user", async () => {
    await start(["--securebits", "+no_setuid_fixup"], (child, isReady, stderr) => {
      expect(isReady).toBe(false);
      expect(child.exitCode).toBe(1);
      expect(stderr).toMatch(
        /cannot serve with rights that a worker must not have: CapPrm is 0*[1-9a-f]+ in thread \d+/,
      );
    });
  });
});
