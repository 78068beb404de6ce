/**
 * Parses the names of attached devices.
 *
 * Used by command line and library. Resolves paths, but does not check whether the device is attached.
 */
import { realpath, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { invalidValue } from "../errors.ts";
import { MAX_INDEX } from "../limits.ts";
import { pathView } from "../source/path-view.ts";
import type { Requests, SeenTarget, Target } from "./protocol.ts";

const INDEX = /^(0|[1-9]\d{0,15})$/;
const DEVICE_NAME = /^(?:\/dev\/)?nbd(0|[1-9]\d*)$/;

/** The index in nbd3, /dev/nbd3 or 3, however large; undefined for anything else. */
export function deviceIndex(text: string): number | undefined {
  const digits = INDEX.exec(text)?.[1] ?? DEVICE_NAME.exec(text)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/**
 * A device in any spelling. Any other text is the path of an image or a mount point: it is made absolute, symbolic
 * links are resolved if it exists, and the file is identified. `./3` is a path.
 * @throws ErofsNbdError ERR_BAD_ARGUMENT
 */
export async function readTarget(text: string): Promise<Target> {
  if (text === "") throw invalidValue("target", "", "a device, an image or a mount point");
  const index = deviceIndex(text);
  if (index !== undefined) {
    if (index > MAX_INDEX) throw invalidValue("target", text, `an index from 0 to ${MAX_INDEX}`);
    return { index };
  }
  const absolute = resolve(text);
  const seen = { view: pathView() ?? null, file: await fileAt(absolute) };
  try {
    return { path: await realpath(absolute), seen };
  } catch {
    // A removed image may still be attached: its former path names the device.
    return { path: absolute, seen };
  }
}

/** What `targetByIdentifier` needs of a client. */
export interface Asker {
  request<M extends "hello" | "status">(
    method: M,
    params: Requests[M]["params"],
  ): Promise<Requests[M]["result"]>;
}

/**
 * The device with this identifier, for a request to the same manager; undefined if it has none. The identifier stays in
 * the request, because the index may belong to another device when it is carried out. Managers of protocol version 1
 * take an index only.
 */
export async function targetByIdentifier(manager: Asker, identifier: string): Promise<Target | undefined> {
  const { devices } = await manager.request("status", { target: null });
  const found = devices.find((device) => device.identifier === identifier);
  if (found === undefined) return undefined;
  const { protocol = 1 } = await manager.request("hello", {});
  if (protocol >= 2) return { identifier };
  return found.index === null ? undefined : { index: found.index };
}

/** The identity of a file on this machine; for a block device, that of the disk. */
async function fileAt(path: string): Promise<SeenTarget["file"]> {
  try {
    const found = await stat(path, { bigint: true });
    return { device: numberOf(found.isBlockDevice() ? found.rdev : found.dev), inode: `${found.ino}` };
  } catch {
    return null;
  }
}

/** A device number as "major:minor", as the kernel prints it; glibc encodes the two in one number (sysmacros.h). */
export function numberOf(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xffff_f000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffff_ff00n);
  return `${major}:${minor}`;
}
