/** found-link.ts: a link of a former manager's worker, and what of it the next manager takes over. */
import { mkdtempSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createLink } from "../../../../src/pool/links/create-link.ts";
import { foundLink } from "../../../../src/pool/links/found-link.ts";
import type { HeldLink } from "../../../../src/pool/links/held-link.ts";
import type { WorkerProcess } from "../../../../src/pool/worker-process.ts";
import { type OpenImage, openImage } from "../../../../src/source/open-image.ts";
import type { FoundLink, LinkObserver, OpenLink } from "../../../../src/supervisor/ports.ts";
import { close, duplicate } from "../../../../src/sys/libc/files.ts";
import { linkRequest } from "../../../helpers/link-request.ts";
import { openDescriptors } from "../../../helpers/sockets/descriptors.ts";

const observer = {} as LinkObserver;
let directory: string;
let image: OpenImage;
let before: number;
/** The link as the former manager had it. */
let former: HeldLink;
/** Links that the worker was told to serve on without a manager. */
let left: number;
let taken: HeldLink | undefined;

beforeEach(() => {
  before = openDescriptors().size;
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-found-"));
  writeFileSync(join(directory, "image"), Buffer.alloc(4096));
  image = openImage(join(directory, "image"));
  former = createLink(7, linkRequest(image), observer, directory);
  left = 0;
  taken = undefined;
});
afterEach(() => {
  for (const link of [former, taken]) {
    link?.close();
    link?.closeKernelEnd();
  }
  close(image.fd);
  rmSync(directory, { recursive: true });
  expect(openDescriptors().size).toBe(before);
});

/** The link as its worker reports it, with duplicates of its descriptors. */
function found(counted: boolean): FoundLink & { readonly imageFd: number } {
  const description = { link: 7, device: "a device", slot: 0, copyOnly: false, counted, confirmed: true };
  const links = { adopt: () => true, leaveOne: () => (left += 1) };
  const worker = { pid: process.pid, links } as unknown as WorkerProcess;
  return foundLink(worker, { description, fds: former.descriptors.map(duplicate) }, (link) => {
    taken = link;
    return link as unknown as OpenLink;
  });
}

test.each([true, false])(
  "its replies are settled in the way in which its worker sends them: counted %s",
  (counted) => {
    const link = found(counted);
    // As the device is now; an administrator may have changed queue/iostats since the link was made.
    link.open(linkRequest(image, { counted: !counted }), observer);
    expect(taken?.request.counted).toBe(counted);
    close(link.imageFd);
  },
);

test("with a journal of another version it is left to its worker, and nothing of it stays open here", () => {
  const link = found(false);
  const [, , journalFd = -1] = former.descriptors;
  writeSync(journalFd, "JNL9", 0);
  expect(() => link.open(linkRequest(image), observer)).toThrow("it was made by another version");
  expect([left, taken]).toEqual([1, undefined]);
  close(link.imageFd);
});
