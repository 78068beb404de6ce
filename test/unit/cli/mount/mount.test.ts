/**
 * mount against a manager and a mount(8) that the test plays: the order of things, and that every failure is undone.
 *
 * The node is a plain file. umount needs a real mount and is tested on real kernels.
 */
import { readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { beforeEach, expect, test } from "vitest";
import { headWith } from "../../../helpers/images/superblock-bytes.ts";
import { until } from "../../../helpers/until.ts";
import { deviceStatus, type FakeManager, Fault } from "../fake-manager.ts";
import { type CliResult, type RunningCli, startCli } from "../run-cli.ts";
import { at, environment, logged, useMountRig, withManager, writeProgram } from "./mount-rig.ts";

useMountRig("mnt");
beforeEach(() => writeProgram("umount", 'echo "umount $*" >> "$LOG"'));

function start(...words: string[]): RunningCli {
  return startCli(["--run-dir", at("run"), "mount", ...words, at("image"), at("mnt")], {
    env: environment(),
  });
}

const mount = (...words: string[]): Promise<CliResult> => start(...words).ended;
const methods = (fake: FakeManager): string[] => fake.requests.map(({ method }) => method);

test("attaches for a mount, mounts read-only, tells the manager and prints nothing", async () => {
  writeProgram("mount", 'echo "mount $*" >> "$LOG"');
  const fake = await withManager();
  expect(await mount("-o", "noatime")).toEqual({ code: 0, stdout: "", stderr: "" });
  expect(logged()).toBe(`mount -i -t erofs -o ro,noatime ${at("nbd0")} ${at("mnt")}\n`);
  expect(fake.requests).toEqual([
    {
      method: "attach",
      params: expect.objectContaining({ image: at("image"), index: null, forMount: true }),
    },
    { method: "mounted", params: { index: 0 } },
  ]);
});

test("--json prints an object, or null where the kernel shows no mount", async () => {
  writeProgram("mount", "exit 0");
  await withManager();
  expect(await mount("--json")).toEqual({ code: 0, stdout: "null\n", stderr: "" });
});

test("the node is held open until the manager has answered", async () => {
  writeProgram("mount", "exit 0");
  let holders = 0;
  await withManager({
    mounted: async () => {
      const descriptors = `/proc/${command.child.pid}/fd`;
      holders = readdirSync(descriptors).filter(
        (fd) => targetOf(`${descriptors}/${fd}`) === at("nbd0"),
      ).length;
      return {};
    },
  });
  const command = start();
  expect(await command.ended).toMatchObject({ code: 0 });
  expect(holders).toBe(1);
});

/** Where a link of /proc leads; some are gone when they are looked at. */
function targetOf(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return "";
  }
}

test("a refused mount is undone and ends with 32 and mount's own words", async () => {
  writeProgram(
    "mount",
    'echo "mount: /mnt: wrong fs type" >&2; echo "       dmesg(1) may say more" >&2; exit 32',
  );
  const fake = await withManager();
  expect(await mount()).toEqual({
    code: 32,
    stdout: "",
    stderr:
      `erofs-nbd: cannot mount ${at("image")} at ${at("mnt")}: /mnt: wrong fs type\n` +
      "hint: dmesg(1) may say more\n",
  });
  expect(methods(fake)).toEqual(["attach", "detach"]);
});

test("a mount that is only missing in mount(8)'s table is one", async () => {
  writeProgram("mount", 'echo "mount: /mnt: filesystem was mounted, but failed to update" >&2; exit 16');
  const fake = await withManager();
  expect(await mount()).toMatchObject({ code: 0, stderr: expect.stringMatching(/failed to update/) });
  expect(methods(fake)).toEqual(["attach", "mounted"]);
});

test("options of erofs-nbd go to the manager", async () => {
  writeProgram("mount", 'echo "mount $*" >> "$LOG"');
  const fake = await withManager();
  expect(await mount("-o", "nodev,nbd.connections=2,nbd.io-timeout=200")).toMatchObject({ code: 0 });
  expect(logged()).toBe(`mount -i -t erofs -o ro,nodev ${at("nbd0")} ${at("mnt")}\n`);
  expect(fake.requests[0]).toMatchObject({ params: { connections: 2, ioTimeoutMs: 200 } });
  expect(await mount("-o", "nbd.connections=x")).toMatchObject({ code: 1, stdout: "" });
  expect(methods(fake)).toEqual(["attach", "mounted"]);
});

/** An image with data on two more, which are attached as nbd1 and nbd2 unless a test gives another answer. */
async function withTwoMore(attach?: (index: number) => Promise<never>): Promise<FakeManager> {
  writeFileSync(at("image"), headWith({ featureIncompat: 0x8, extraDevices: 2, blocksLow: 2 }, 8192));
  for (const name of ["nbd1", "nbd2", "a", "b,c"]) writeFileSync(at(name), name);
  let next = 0;
  return withManager({
    hello: async () => ({ version: "9.0.0", pid: process.pid, takesDescriptors: true, protocol: 3 }),
    attach: async () => {
      const index = next++;
      await attach?.(index);
      return {
        device: deviceStatus({ device: at(`nbd${index}`), index, identifier: `id ${index}` }),
        notes: [],
      };
    },
  });
}
const TWO_MORE = (): string => `device=${at("a")},nodev,nbd.device=7,device="${at("b,c")}"`;

test("images with further data are attached after the file system's, and named to the kernel in their order", async () => {
  writeProgram("mount", 'echo "mount $*" >> "$LOG"');
  const fake = await withTwoMore();
  expect(await mount("-o", TWO_MORE())).toEqual({ code: 0, stdout: "", stderr: "" });
  const nodes = `device=${at("nbd1")},device=${at("nbd2")}`;
  expect(logged()).toBe(`mount -i -t erofs -o ro,nodev,${nodes} ${at("nbd0")} ${at("mnt")}\n`);
  const more = { offsetBytes: 0, extraOf: "id 0" };
  expect(fake.requests).toMatchObject([
    { method: "attach", params: { image: at("image"), index: 7, part: { offsetBytes: 0, extraDevices: 2 } } },
    { method: "attach", params: { image: at("a"), index: null, forMount: true, part: more } },
    { method: "attach", params: { image: at("b,c"), index: null, forMount: true, part: more } },
    { method: "mounted", params: { index: 0 } },
    { method: "mounted", params: { index: 1 } },
    { method: "mounted", params: { index: 2 } },
  ]);
});

test("all are detached, the last one first, where one cannot be attached or the mount is refused", async () => {
  writeProgram("mount", 'echo "mount: /mnt: no" >&2; exit 32');
  const detached = (fake: FakeManager): unknown[] =>
    fake.requests
      .filter(({ method }) => method === "detach")
      .map(({ params }) => (params as { targets: unknown[] }).targets[0]);
  const refused = await withTwoMore(async (index) => {
    if (index === 2) throw new Fault({ code: "ERR_NETLINK_REFUSED", message: "cannot attach", exitCode: 2 });
    return undefined as never;
  });
  expect(await mount("-o", TWO_MORE())).toMatchObject({ code: 2 });
  expect(detached(refused)).toEqual([{ index: 1 }, { index: 0 }]);
  expect(methods(refused)).not.toContain("mounted");
  await refused.close();
  const unmounted = await withTwoMore();
  expect(await mount("-o", TWO_MORE())).toMatchObject({ code: 32 });
  expect(detached(unmounted)).toEqual([{ index: 2 }, { index: 1 }, { index: 0 }]);
});

test("a manager of a former version is not asked for a part of a file system", async () => {
  await withManager({
    hello: async () => ({ version: "0.0.9", pid: process.pid, takesDescriptors: true, protocol: 2 }),
  });
  writeFileSync(at("image"), headWith({ featureIncompat: 0x8, extraDevices: 1, blocksLow: 2 }, 8192));
  writeFileSync(at("a"), "a");
  expect(await mount("-o", `device=${at("a")}`)).toEqual({
    code: 2,
    stdout: "",
    stderr:
      "erofs-nbd: cannot attach a part of a file system: the manager is of version 0.0.9, which knows none\n" +
      "hint: replace it by this version: erofs-nbd upgrade\n",
  });
});

test("a mount that the manager does not take is unmounted and detached", async () => {
  writeProgram("mount", "exit 0");
  const fake = await withManager({
    mounted: async () => {
      throw new Fault({ code: "ERR_KERNEL", message: "cannot set autoclear: EINVAL", exitCode: 2 });
    },
  });
  expect(await mount()).toMatchObject({ code: 2, stderr: "erofs-nbd: cannot set autoclear: EINVAL\n" });
  expect(logged()).toBe(`umount ${at("mnt")}\n`);
  expect(methods(fake)).toEqual(["attach", "mounted", "detach"]);
});

test("an interrupted mount ends mount(8), detaches and ends with 8", async () => {
  writeProgram("mount", 'echo begun >> "$LOG"; exec sleep 60');
  const fake = await withManager();
  const command = start();
  await until("it has begun", () => logged() === "begun\n");
  command.child.kill("SIGINT");
  const result = await command.ended;
  expect(result).toMatchObject({ code: 8, stdout: "" });
  expect(result.stderr).toMatch(/^erofs-nbd: cannot mount .*: interrupted by SIGINT$/m);
  expect(methods(fake)).toEqual(["attach", "detach"]);
});

test("an interruption that comes too late to stop mount(8) is undone by umount(8)", async () => {
  writeProgram("mount", 'trap "" TERM; mkfifo "$LOG.go"; echo begun >> "$LOG"; read -r _ < "$LOG.go"');
  const fake = await withManager();
  const command = start();
  await until("it has begun", () => logged() === "begun\n");
  command.child.kill("SIGTERM");
  await command.until("stderr", /^note: interrupted/m);
  writeFileSync(at("log.go"), "go\n");
  expect(await command.ended).toMatchObject({ code: 8, stdout: "" });
  expect(logged()).toBe(`begun\numount ${at("mnt")}\n`);
  expect(methods(fake)).toEqual(["attach", "detach"]);
});
