/** Links that are made, settled and made again where the system gives nothing any more. */
import { fstatSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createLink } from "../../../../src/pool/links/create-link.ts";
import type { HeldLink } from "../../../../src/pool/links/held-link.ts";
import { LinkMaker } from "../../../../src/pool/links/link-maker.ts";
import { type OpenImage, openImage } from "../../../../src/source/open-image.ts";
import type { LinkObserver, LinkRequest } from "../../../../src/supervisor/ports.ts";
import { ERRNO, SystemError } from "../../../../src/sys/errno.ts";
import { acquire, dropReserve, fillReserve } from "../../../../src/sys/libc/descriptor-reserve.ts";
import { close } from "../../../../src/sys/libc/files.ts";
import { linkRequest } from "../../../helpers/link-request.ts";
import { openDescriptors } from "../../../helpers/sockets/descriptors.ts";

const system = vi.hoisted(() => ({ hasPipes: true }));
vi.mock(import("../../../../src/sys/libc/pipes.ts"), async (importOriginal) => {
  const original = await importOriginal();
  const pipe = (): [number, number] => {
    if (!system.hasPipes) throw new SystemError("pipe2", ERRNO.EMFILE);
    return original.pipe();
  };
  return { ...original, pipe };
});

const observer = {} as LinkObserver;
let directory: string;
let journals: string;
let image: OpenImage;
let before: number;
const links: HeldLink[] = [];

beforeEach(() => {
  system.hasPipes = true;
  before = openDescriptors().size;
  directory = mkdtempSync(join(tmpdir(), "erofs-nbd-links-"));
  journals = mkdtempSync(join(directory, "journals-"));
  writeFileSync(join(directory, "image"), "an image".padEnd(4096));
  image = openImage(join(directory, "image"));
});
afterEach(() => {
  for (const link of links.splice(0)) {
    link.close();
    link.closeKernelEnd();
  }
  dropReserve();
  close(image.fd);
  rmSync(directory, { recursive: true });
  expect(openDescriptors().size).toBe(before);
});

const request = (former?: { readonly number: number }): LinkRequest => linkRequest(image, { former });

function held(link: HeldLink): HeldLink {
  links.push(link);
  return link;
}

test("a link that is settled keeps its pipe until it has another, and can be settled again", async () => {
  const link = held(createLink(1, request(), observer, journals));
  const [, , , readFd, writeFd] = link.descriptors as [number, number, number, number, number, number];
  system.hasPipes = false;
  await expect(link.settle()).rejects.toMatchObject({ errno: ERRNO.EMFILE });
  for (const fd of [readFd, writeFd]) expect(fstatSync(fd).isFIFO()).toBe(true);
  expect(link.descriptors.slice(3, 5)).toEqual([readFd, writeFd]);
  system.hasPipes = true;
  expect(await link.settle()).toMatchObject({ safe: true });
});

test("where no journal can be made a dead link gives its own to its successor", () => {
  const maker = new LinkMaker(journals);
  const former = held(maker.make(1, request(), observer, undefined));
  // As with a full file system: no file can be made here any more.
  rmSync(journals, { recursive: true });
  expect(() => maker.make(2, request(), observer, undefined)).toThrow("ENOENT");
  const next = held(maker.make(3, request(former), observer, former));
  expect([former.isOpen, next.isOpen, next.isQuiet]).toEqual([false, true, true]);
  // No worker takes it, and the next attempt gets the journal all the same.
  links.splice(links.indexOf(next), 1);
  maker.giveUp(next);
  expect(held(maker.make(4, request(former), observer, former)).isQuiet).toBe(true);
});

test("where the rest of a link is refused the journal is kept for the next attempt", () => {
  const maker = new LinkMaker(journals);
  const former = held(maker.make(1, request(), observer, undefined));
  system.hasPipes = false;
  expect(() => maker.make(2, request(former), observer, former)).toThrow("EMFILE");
  system.hasPipes = true;
  held(maker.make(3, request(former), observer, former));
  // The spare one is removed when another could be made.
  expect(readdirSync(journals)).toHaveLength(1);
});

test("acquire spends the descriptors in reserve where none is left, and tries once more", () => {
  fillReserve();
  const count = (): number => readdirSync("/proc/self/fd").length;
  const full = count();
  let tries = 0;
  const work = (): number => {
    tries += 1;
    if (tries === 1) throw new SystemError("pipe2", ERRNO.EMFILE);
    return count();
  };
  expect(acquire(work)).toBeLessThan(full);
  expect(tries).toBe(2);
  const other = new SystemError("pipe2", ERRNO.ENOMEM);
  expect(() =>
    acquire(() => {
      throw other;
    }),
  ).toThrow(other);
});
