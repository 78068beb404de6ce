/** The library: devices that are attached already are found and listed. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { ErofsNbdError } from "../../../src/errors.ts";
import { find, list } from "../../../src/library/find.ts";
import { until } from "../../helpers/until.ts";
import { device, manager, runDir, STATUS, useAttachedDevice } from "./library-rig.ts";

useAttachedDevice();

describe("find and list", () => {
  test("a device that is attached already: what it is, what happens to it, and its end", async () => {
    device.close();
    const found = await find(5, { runDir: runDir.path });
    expect(found).toMatchObject({ device: "/dev/nbd5", index: 5, identifier: "mine", isDetached: false });
    let why: string | undefined;
    found?.on("stalled", (message) => {
      why = message;
    });
    manager.tell({ event: "stalled", message: "no worker serves" });
    await until("the event", () => why !== undefined);
    expect(why).toBe("no worker serves");
    await found?.detach();
    expect(found?.isDetached).toBe(true);
    expect(manager.calls).toContain('status {"index":5}');
  });

  test("what happens while the answer is on its way is told, too", async () => {
    manager.before = (call) => {
      if (call.startsWith("status"))
        manager.tell({ event: "state", state: "taking-over", before: "serving" });
    };
    const states: string[] = [];
    const [found] = await list({ runDir: runDir.path });
    found?.on("state", (state) => states.push(state));
    await until("the state", () => states.length > 0);
    found?.close();
  });

  test("a target in every spelling, and a path, which is resolved", async () => {
    for (const target of ["/dev/nbd5", "nbd5", "5", 5, runDir.path, pathToFileURL(runDir.path)])
      (await find(target, { runDir: runDir.path }))?.close();
    const asked = manager.calls.filter((call) => call.startsWith("status"));
    expect(asked.slice(0, 4)).toEqual(Array(4).fill('status {"index":5}'));
    const paths = asked.slice(4).map((call) => call.replace(/,"seen":.*\}\}\}$/, "}"));
    expect(paths).toEqual(Array(2).fill(`status {"path":${JSON.stringify(runDir.path)}}`));
  });

  test("not attached, or still without a node: nothing", async () => {
    manager.before = () => {
      throw new ErofsNbdError("ERR_NOT_ATTACHED", "cannot find nbd6: it is not attached");
    };
    expect(await find(6, { runDir: runDir.path })).toBeUndefined();
    manager.before = () => {};
    manager.statusAnswer = [{ ...STATUS, device: null, index: null }];
    expect(await list({ runDir: runDir.path })).toEqual([]);
  });

  test("of several the first by index; the list is in that order", async () => {
    manager.statusAnswer = [{ ...STATUS, device: "/dev/nbd9", index: 9 }, STATUS];
    const found = await find("/images/a", { runDir: runDir.path });
    const all = await list({ runDir: runDir.path });
    expect([found?.index, all.map(({ index }) => index)]).toEqual([5, [5, 9]]);
    for (const one of [found, ...all]) one?.close();
  });

  test("without a manager and without records, none is started", async () => {
    const empty = join(runDir.path, "empty");
    expect(await find("nbd0", { runDir: empty })).toBeUndefined();
    expect(await list({ runDir: empty })).toEqual([]);
    expect(existsSync(empty)).toBe(false);
  });

  test("a target that cannot name a device is refused", async () => {
    for (const target of ["", -1, 1.5, Number.NaN, null, {}])
      await expect(find(target as string, { runDir: runDir.path })).rejects.toMatchObject({
        code: "ERR_BAD_ARGUMENT",
      });
  });
});
