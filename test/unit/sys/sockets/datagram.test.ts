/** sendDatagram: paths and abstract names, queues that are full, no listener, and no descriptor left behind. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { sendDatagram } from "../../../../src/sys/sockets/datagram.ts";
import { DatagramReceiver } from "../../../helpers/sockets/datagram-receiver.ts";
import { openDescriptors } from "../../../helpers/sockets/descriptors.ts";
import { until } from "../../../helpers/until.ts";

const directory = mkdtempSync(join(tmpdir(), "erofs-nbd-datagram-"));
afterAll(() => rmSync(directory, { recursive: true }));

let before: Map<number, string>;
beforeEach(() => {
  before = openDescriptors();
});
afterEach(() => expect(openDescriptors()).toEqual(before));

let made = 0;
function next(): number {
  made += 1;
  return made;
}
const addresses = {
  "a path": () => join(directory, `s${next()}`),
  "an abstract name": () => `@erofs-nbd-test-${process.pid}-${next()}`,
  "the longest path": () => join(directory, "s".repeat(107 - directory.length - 1)),
  "the longest abstract name": () => `@${String(process.pid).padEnd(107, "x")}`,
};

for (const [what, name] of Object.entries(addresses)) {
  test(`reaches ${what}`, async () => {
    const receiver = new DatagramReceiver(name());
    expect(sendDatagram(receiver.address, "READY=1\nSTATUS=größer")).toBe(true);
    await until("it is there", () => receiver.messages.length === 1);
    expect(receiver.messages).toEqual([{ READY: "1", STATUS: "größer" }]);
    receiver.close();
  });
}

test("a full queue: false, nothing blocks, and it works again when there is room", async () => {
  const receiver = new DatagramReceiver(join(directory, "full"));
  receiver.isStuck = true;
  let sent = 0;
  while (sendDatagram(receiver.address, `N=${sent}`)) sent += 1;
  expect(sent).toBeGreaterThan(0);
  receiver.isStuck = false;
  await until("all are there", () => receiver.messages.length === sent);
  expect(sendDatagram(receiver.address, "N=last")).toBe(true);
  await receiver.line("N", "last");
  receiver.close();
});

test("nobody there: an error that names the address", () => {
  expect(() => sendDatagram(join(directory, "none"), "x")).toThrow(/none: ENOENT/);
  expect(() => sendDatagram("@erofs-nbd-nobody", "x")).toThrow(/ECONNREFUSED/);
});

test("an address that does not fit is refused before anything is opened", () => {
  expect(() => sendDatagram(`/${"x".repeat(107)}`, "x")).toThrow(RangeError);
  expect(() => sendDatagram(`@${"x".repeat(108)}`, "x")).toThrow(RangeError);
});
