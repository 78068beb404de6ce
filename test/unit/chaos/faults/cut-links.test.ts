/** The request that cuts links, over a real control socket: checked, passed on, and refused in words. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ControlClient } from "../../../../src/control/client.ts";
import { chooseRunDir } from "../../../../src/control/run-dir.ts";
import { ErofsNbdError } from "../../../../src/errors.ts";
import { ControlServer } from "../../../../src/manager/control-server/control-server.ts";
import { FakeManager } from "../../manager/fake-manager.ts";

let directory: string;
let manager: FakeManager;
let server: ControlServer;
let client: ControlClient;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "cut-links-"));
  const runDir = chooseRunDir(directory);
  manager = new FakeManager();
  const quiet = { info: () => {}, warn: () => {}, error: () => {} };
  server = new ControlServer(runDir.controlSocket, manager, quiet);
  const connected = await ControlClient.connect(runDir);
  if (connected === undefined) throw new Error("cannot connect to the server");
  client = connected;
});
afterEach(() => {
  client.close();
  server.close();
  rmSync(directory, { recursive: true });
});

test("reaches the manager with the device's index", async () => {
  expect(await client.request("cutLinks", { index: 5 })).toEqual({});
  expect(manager.calls).toEqual(["cutLinks 5"]);
});

test("what is no index never reaches it", async () => {
  await expect(client.request("cutLinks", { index: -1 })).rejects.toThrow(
    /^invalid cutLinks request: index: /,
  );
  expect(manager.calls).toEqual([]);
});

test("a device whose links cannot be cut is refused with the manager's words", async () => {
  manager.cutLinks = () => {
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", "cannot cut the links of nbd5: it is attached by ioctl");
  };
  await expect(client.request("cutLinks", { index: 5 })).rejects.toMatchObject({
    code: "ERR_BAD_ARGUMENT",
    exitCode: 1,
  });
});
