/** notify.ts: variables removed from the environment, and the order of messages through a full queue. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Notifier, takeServiceEnvironment } from "../../../../src/manager/service/notify.ts";
import { DatagramReceiver } from "../../../helpers/sockets/datagram-receiver.ts";
import { until } from "../../../helpers/until.ts";

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-notify-"));
afterAll(() => rmSync(directory, { recursive: true }));

function quietLog(): { said: string[]; log: ConstructorParameters<typeof Notifier>[1] } {
  const said: string[] = [];
  const add = (message: string): void => void said.push(message);
  return { said, log: { info: add, warn: add, error: add } };
}

describe("takeServiceEnvironment", () => {
  const cases: Array<[what: string, NodeJS.ProcessEnv, ReturnType<typeof takeServiceEnvironment>]> = [
    ["nothing", {}, undefined],
    ["a path", { NOTIFY_SOCKET: "/run/n" }, { socket: "/run/n", watchdogMs: undefined }],
    ["an abstract name", { NOTIFY_SOCKET: "@n" }, { socket: "@n", watchdogMs: undefined }],
    ["a socket of another kind", { NOTIFY_SOCKET: "vsock:2:1234" }, undefined],
    ["an empty socket", { NOTIFY_SOCKET: "" }, undefined],
    ["a watchdog", { NOTIFY_SOCKET: "/n", WATCHDOG_USEC: "2500000" }, { socket: "/n", watchdogMs: 2500 }],
    [
      "a watchdog for us",
      { NOTIFY_SOCKET: "/n", WATCHDOG_USEC: "1000", WATCHDOG_PID: "42" },
      { socket: "/n", watchdogMs: 1 },
    ],
    [
      "a watchdog for another process",
      { NOTIFY_SOCKET: "/n", WATCHDOG_USEC: "1000", WATCHDOG_PID: "43" },
      { socket: "/n", watchdogMs: undefined },
    ],
    ["a watchdog of 0", { NOTIFY_SOCKET: "/n", WATCHDOG_USEC: "0" }, { socket: "/n", watchdogMs: undefined }],
    [
      "a watchdog of garbage",
      { NOTIFY_SOCKET: "/n", WATCHDOG_USEC: "soon" },
      { socket: "/n", watchdogMs: undefined },
    ],
  ];
  test.each(cases)("%s", (_, environment, wanted) => {
    const given = { ...environment, PATH: "/bin" };
    expect(takeServiceEnvironment(given, 42)).toEqual(wanted);
    expect(given).toEqual({ PATH: "/bin" });
  });

  test("children of this process do not inherit the variables", () => {
    process.env["NOTIFY_SOCKET"] = "/run/unused";
    expect(takeServiceEnvironment()?.socket).toBe("/run/unused");
    const { stdout } = spawnSync("env", { encoding: "utf8" });
    expect(stdout).toContain("PATH=");
    expect(stdout).not.toContain("NOTIFY_SOCKET");
  });
});

describe("a notifier", () => {
  test("sends lines as one message; a value stays one line", async () => {
    const receiver = new DatagramReceiver(join(directory, "one"));
    new Notifier(receiver.address, quietLog().log).tell({ READY: 1, STATUS: "a\nREADY=2" });
    await until("the message", () => receiver.messages.length === 1);
    expect(receiver.messages).toEqual([{ READY: "1", STATUS: "a READY=2" }]);
    receiver.close();
  });

  test("sends messages again that did not fit, in order", async () => {
    const receiver = new DatagramReceiver(`@erofs-nbd-notify-${process.pid}`);
    receiver.isStuck = true;
    const notifier = new Notifier(receiver.address, quietLog().log);
    const wanted = Array.from({ length: 100 }, (_, at) => String(at));
    for (const n of wanted) notifier.tell({ N: n });
    notifier.tell({ READY: 1 });
    receiver.isStuck = false;
    await receiver.line("READY");
    expect(receiver.values("N")).toEqual(wanted);
    receiver.close();
  });

  test("logs once that there is no receiver, and goes on when there is one", async () => {
    const address = join(directory, "late");
    const { said, log } = quietLog();
    const notifier = new Notifier(address, log);
    for (let n = 0; n < 5; n += 1) notifier.tell({ WATCHDOG: 1 });
    expect(said).toEqual([expect.stringContaining("cannot notify the service manager: cannot connect to")]);
    const receiver = new DatagramReceiver(address);
    notifier.tell({ WATCHDOG: 1 });
    await receiver.line("WATCHDOG");
    receiver.close();
    rmSync(address);
    notifier.tell({ WATCHDOG: 1 });
    expect(said).toHaveLength(2);
  });
});
