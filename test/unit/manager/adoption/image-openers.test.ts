/** image-openers.ts, recorded-image.ts and late-image.ts with real openers, of which some hang. */
import { existsSync, fstatSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ImageOpeners } from "../../../../src/manager/adoption/image-openers.ts";
import type { LeftoverDevice } from "../../../../src/manager/adoption/leftover-device.ts";
import {
  type Opening,
  openRecorded,
  type RecordedSource,
} from "../../../../src/manager/adoption/recorded-image.ts";
import { openImage } from "../../../../src/source/open-image.ts";
import { fileHandleOf } from "../../../../src/sys/files/file-handle.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { openDescriptors } from "../../../helpers/sockets/descriptors.ts";
import { until } from "../../../helpers/until.ts";
import {
  adopt,
  adopted,
  adoptedNames,
  directory,
  kept,
  kernel,
  late,
  leave,
  surroundings,
} from "./adoption-rig.ts";

const OPENER = fileURLToPath(new URL("../../../helpers/processes/hanging-opener.mjs", import.meta.url));
let openers: ImageOpeners;
const said: string[] = [];
let before: ReturnType<typeof openDescriptors>;
beforeEach(() => {
  before = openDescriptors();
  said.length = 0;
  openers = new ImageOpeners({
    log: { warn: (message) => said.push(message) },
    stderr: "inherit",
    openerPath: OPENER,
  });
});
afterEach(() => {
  openers.close();
  expect(openDescriptors()).toEqual(before);
});

/** A record's image. All are at one place. */
function recorded(name: string): RecordedSource {
  const path = join(directory, name);
  writeFileSync(path, name);
  const { fd, spec } = openImage(path);
  close(fd);
  return { image: spec, imageHandle: null };
}
const open = (source: RecordedSource): Opening => openRecorded(openers, source);
const hang = ({ image }: RecordedSource): void => writeFileSync(`${image.path}.hangs`, "");
const goOn = ({ image }: RecordedSource): void => rmSync(`${image.path}.hangs`);
/** Pids of the processes in which it has hung. */
const hungIn = ({ image }: RecordedSource): string[] =>
  readFileSync(`${image.path}.hangs`, "utf8").trim().split("\n").filter(Boolean);

/** It was opened, and is that file. */
async function expectOpened(opening: Opening, { image }: RecordedSource): Promise<void> {
  const found = await opening.result;
  if (found === undefined || "why" in found) throw new Error(`${image.path} was not opened`);
  expect(found.spec).toEqual(image);
  expect(fstatSync(found.fd, { bigint: true }).ino.toString()).toBe(
    image.type === "file" ? image.identity.inode : "",
  );
  close(found.fd);
}

describe("images of records", () => {
  test("are opened by one process, which ends when nothing is left to open", async () => {
    const all = Array.from({ length: 20 }, (_, at) => recorded(`image ${at}`));
    const openings = all.map(open);
    await until("a process", () => openers.pids.length === 1);
    for (const [at, opening] of openings.entries()) await expectOpened(opening, all[at] as RecordedSource);
    expect(openers.pids).toEqual([]);
    expect(said).toEqual([]);
  });

  test("that cannot be opened: the reason, and a remedy", async () => {
    const gone = recorded("gone");
    rmSync(gone.image.path);
    expect(await open(gone).result).toMatchObject({
      why: `cannot open image ${gone.image.path}: there is no such file`,
      remedy: "hand the image in: erofs-nbd attach IMAGE",
    });
  });

  test("on a file system that does not answer hold up no others, and are opened when it answers", async () => {
    const [hung, same, other] = [recorded("hung"), recorded("same"), recorded("other")];
    hang(hung);
    const first = open(hung);
    const waits = open(same);
    await first.late;
    await waits.late;
    await until("it hangs", () => hungIn(hung).length === 1);
    const answer = await openers.submit({ image: other.image, handle: null }, "another place", () => {})
      .answer;
    expect(answer).toMatchObject({ type: "opened" });
    if (answer?.type === "opened") close(answer.fd);
    expect(openers.pids).toHaveLength(1);
    goOn(hung);
    await expectOpened(first, hung);
    await expectOpened(waits, same);
    expect(openers.pids).toEqual([]);
  });

  test("are opened by another process when one dies, and are late meanwhile", async () => {
    const one = recorded("one");
    writeFileSync(`${one.image.path}.dies`, "");
    const opening = open(one);
    await opening.late;
    await until("its death", () => said.length > 0);
    rmSync(`${one.image.path}.dies`);
    await expectOpened(opening, one);
    expect(said[0]).toBe(
      "cannot open images: a process that was to do it has not started, or died: it exited with 7",
    );
  });

  test("that are cancelled settle as cancelled, and the process that is stuck in one is killed", async () => {
    const [hung, next] = [recorded("hung"), recorded("next")];
    hang(hung);
    const opening = open(hung);
    const waits = open(next);
    await until("it hangs", () => hungIn(hung).length > 0);
    const [pid] = openers.pids;
    opening.cancel();
    expect(await opening.result).toBeUndefined();
    await expectOpened(waits, next);
    await until(
      "its end",
      () => !existsSync(`/proc/${pid}`) || readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z "),
    );
    openers.close();
    expect(await open(next).result).toBeUndefined();
  });

  test("are found by their handle after a rename, if the kernel allows it and nothing else has changed", async (context) => {
    const one = recorded("one");
    const { fd } = openImage(one.image.path);
    const imageHandle = fileHandleOf(fd) ?? null;
    close(fd);
    const found = await open({ ...one, imageHandle }).result;
    if (found === undefined || "why" in found) throw new Error("not opened");
    close(found.fd);
    // A rename changes the change time: the path then says more.
    renameSync(one.image.path, `${one.image.path}.away`);
    expect(await open({ ...one, imageHandle }).result).toMatchObject({
      why: expect.stringContaining("no such file"),
    });
    if (imageHandle === null) context.skip("no handles here");
  });
});

describe("a device whose image is late", () => {
  test("is kept and shown, the others are adopted, and it is continued with what the opening gives", async () => {
    for (const [at, name] of ["hung", "a", "b"].entries()) {
      await leave(name, []);
      kernel.devices.set(name, at);
      kernel.waiting.set(at, 3 - at);
    }
    const path = join(directory, "hung.image");
    writeFileSync(`${path}.hangs`, "");
    const notes = await adopt([], [], [], {
      open: (record) => (record.image.path === path ? open(record) : surroundings().open(record)),
    });
    expect(adoptedNames()).toEqual(["a", "b"]);
    expect(notes.join("\n")).toContain("its image cannot be opened yet");
    expect(late).toHaveLength(1);
    const device = kept[0] as LeftoverDevice;
    expect(device).toMatchObject({ state: "stalled", isAwaitingImage: true });
    expect(device.stalledReason).toBe(
      `${path} cannot be opened yet: a file system on the way to it does not answer; ` +
        "the device goes on when it does, or hand the image in: erofs-nbd attach IMAGE",
    );
    rmSync(`${path}.hangs`);
    const found = await late[0]?.opening.result;
    expect(found).toMatchObject({ spec: { path } });
    if (found !== undefined && !("why" in found)) close(found.fd);
    // It is up to the manager to continue it.
    expect(adoptedNames()).toEqual(["a", "b"]);
    for (const { fd } of adopted.splice(0)) close(fd);
  });
});
