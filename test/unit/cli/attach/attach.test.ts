/** attach against a manager that the test plays: what is asked, what is printed, what is undone. */
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { AttachParams } from "../../../../src/control/protocol.ts";
import { until } from "../../../helpers/until.ts";
import { deviceStatus, Fault } from "../fake-manager.ts";
import {
  directory,
  image,
  killManager,
  manager,
  runDir,
  useManagerRig,
  withManager,
} from "../manager-rig.ts";
import { runCli, startCli } from "../run-cli.ts";

useManagerRig();

describe("attach", () => {
  const run = (...args: string[]) => runCli(["--run-dir", runDir, "attach", ...args]);
  const answer = async () => ({ device: deviceStatus(), notes: ["it is a raw image"] });

  test("asks with the defaults and prints the node and nothing else on stdout", async () => {
    const { requests } = await withManager({ attach: answer });
    expect(await run(image)).toEqual({ code: 0, stdout: "/dev/nbd0\n", stderr: "note: it is a raw image\n" });
    const wanted: AttachParams = {
      image,
      interface: "any",
      index: null,
      connections: 1,
      blockSizeBytes: null,
      timeoutSeconds: 0,
      deadTimeoutSeconds: 86_400,
      ioTimeoutMs: 1000,
      hangTimeoutMs: 2000,
      forMount: false,
    };
    expect(requests).toEqual([{ method: "attach", params: wanted }]);
  });

  test("hands every option on; a relative path becomes absolute", async () => {
    const { requests } = await withManager({ attach: answer });
    const words = ["--netlink", "--device", "/dev/nbd7", "--connections", "3", "--block-size", "4096"];
    const times = ["--timeout", "30", "--dead-timeout", "0", "--io-timeout", "250", "--hang-timeout", "4500"];
    const result = await runCli(["attach", ...words, ...times, "--run-dir", runDir, "image"], {
      cwd: directory,
    });
    expect(result.code).toBe(0);
    expect(requests[0]?.params).toEqual({
      image,
      interface: "netlink",
      index: 7,
      connections: 3,
      blockSizeBytes: 4096,
      timeoutSeconds: 30,
      deadTimeoutSeconds: 0,
      ioTimeoutMs: 250,
      hangTimeoutMs: 4500,
      forMount: false,
    });
  });

  test("--json prints the status object; --ioctl prints its limitation once", async () => {
    const { requests } = await withManager({ attach: answer });
    const result = await run("--json", "--ioctl", image);
    expect(JSON.parse(result.stdout)).toEqual(deviceStatus());
    expect(result.stderr.match(/cannot be reconnected/g)).toHaveLength(1);
    expect(requests[0]?.params).toMatchObject({ interface: "ioctl" });
  });

  test("the manager's refusal is printed with its hint and ends with its exit code", async () => {
    const message = "cannot attach: the kernel has no nbd driver loaded";
    const hint = "load it: modprobe nbd max_part=0";
    await withManager({
      attach: () => {
        throw new Fault({ code: "ERR_NO_NBD", message, hint, exitCode: 2 });
      },
    });
    const text = `erofs-nbd: ${message}\nhint: ${hint}\n`;
    expect(await run(image)).toEqual({ code: 2, stdout: "", stderr: text });
    expect((await run("-v", image)).stderr).toMatch(/^code: ERR_NO_NBD$/m);
  });

  test("an interrupted attach is finished, undone and ends with 8", async () => {
    let goOn = (): void => {};
    const isAnswered = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    const { requests } = await withManager({
      attach: async () => {
        await isAnswered;
        return { device: deviceStatus({ device: "/dev/nbd4", index: 4 }), notes: [] };
      },
      detach: async ({ targets }) => ({
        results: [{ target: targets[0] ?? null, device: "/dev/nbd4", error: null }],
      }),
    });
    const command = startCli(["--run-dir", runDir, "attach", image]);
    await until("it is asked", () => requests.length > 0);
    command.child.kill("SIGINT");
    await command.until("stderr", /^note: interrupted/m);
    goOn();
    const result = await command.ended;
    expect(result).toMatchObject({ code: 8, stdout: "" });
    expect(result.stderr).toMatch(/^erofs-nbd: cannot attach .*: interrupted by SIGINT$/m);
    expect(requests[1]).toEqual({
      method: "detach",
      params: { targets: [{ index: 4 }], all: false, force: false },
    });
  });

  test("a second signal ends at once", async () => {
    const { requests } = await withManager({ attach: () => new Promise(() => {}) });
    const command = startCli(["--run-dir", runDir, "attach", image]);
    await until("it is asked", () => requests.length > 0);
    command.child.kill("SIGTERM");
    await command.until("stderr", /^note: interrupted/m);
    command.child.kill("SIGTERM");
    expect(await command.ended).toMatchObject({ code: 8, stdout: "" });
  });

  test("a manager that was just ending when it took the connection is followed by another", async () => {
    mkdirSync(runDir, { mode: 0o700 });
    const ending = createServer((socket) => {
      ending.close();
      void withManager({ attach: answer }).finally(() => socket.destroy());
    });
    ending.listen(join(runDir, "control.sock"));
    await once(ending, "listening");
    expect(await run(image)).toMatchObject({ code: 0, stdout: "/dev/nbd0\n" });
    expect(manager?.requests.map(({ method }) => method)).toEqual(["attach"]);
  });

  test("a manager that dies in the middle is an error, not a hang", async () => {
    const { requests } = await withManager({ attach: () => new Promise(() => {}) });
    const command = startCli(["--run-dir", runDir, "attach", image]);
    await until("it is asked", () => requests.length > 0);
    await killManager();
    const result = await command.ended;
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toMatch(/^erofs-nbd: cannot finish the request: the manager went away$/m);
  });
});
