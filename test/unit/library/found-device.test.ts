/** attached-device.ts and find.ts: what becomes of a device when its object goes out of scope. */
import { EventEmitter } from "eventemitter3";
import { expect, test } from "vitest";
import type { Method } from "../../../src/control/protocol.ts";
import { AttachedDevice } from "../../../src/library/attached-device.ts";
import { lookThrough } from "../../../src/library/find.ts";
import { deviceStatus } from "../cli/fake-manager.ts";

/** A session with a manager that has one device, and what was asked of it. */
function fakeSession(hello: object = { protocol: 2 }) {
  const asked: Array<{ method: Method; params: unknown }> = [];
  const ask = async (method: Method, params: unknown): Promise<unknown> => {
    asked.push({ method, params });
    if (method === "hello") return { version: "9.0.0", pid: 1, ...hello };
    if (method === "status") return { devices: [deviceStatus()], notes: [] };
    return { results: [{ target: null, device: "/dev/nbd0", error: null }] };
  };
  const session = Object.assign(new EventEmitter(), { ask, request: ask });
  return { asked, session: session as unknown as Parameters<typeof lookThrough>[0] };
}

test("a device that was found is closed at the end of its block, and stays attached", async () => {
  const { asked, session } = fakeSession();
  let isLetGo = false;
  const [found] = await lookThrough(session, null, () => {
    isLetGo = true;
  });
  await found?.[Symbol.asyncDispose]();
  expect(asked.map(({ method }) => method)).not.toContain("detach");
  expect(isLetGo).toBe(true);
  expect(found?.isDetached).toBe(false);
});

test("a device that was attached is detached", async () => {
  const { asked, session } = fakeSession();
  const attached = new AttachedDevice(session, deviceStatus(), { notes: [], isOwn: true }, () => {});
  await attached[Symbol.asyncDispose]();
  const { identifier } = deviceStatus();
  expect(asked.find(({ method }) => method === "detach")?.params).toMatchObject({
    targets: [{ identifier }],
  });
  expect(attached.isDetached).toBe(true);
});

test("a manager of the first version is told the index, as it knows no identifiers", async () => {
  const { asked, session } = fakeSession({});
  const attached = new AttachedDevice(session, deviceStatus(), { notes: [], isOwn: true }, () => {});
  await attached.detach();
  const { index } = deviceStatus();
  expect(asked.find(({ method }) => method === "detach")?.params).toMatchObject({ targets: [{ index }] });
});
