/**
 * Splits a mount option list into the options of erofs-nbd (nbd.NAME=VALUE) and those passed on to mount(8).
 *
 * Pure. Used by the mount helper and by `erofs-nbd mount`.
 */
import { ErofsNbdError, invalidValue } from "../../errors.ts";
import { type AttachWords, DEFAULTS, type DeviceParams, readAttachParams } from "../attach/attach-params.ts";
import { isKnownMountOption } from "./known-mount-options.ts";

/** An option of erofs-nbd in a mount option list. */
export interface NbdOption {
  /** Without the prefix. */
  readonly name: string;
  /** The placeholder of its value, as in a manual page. */
  readonly value: string;
  readonly summary: string;
}

/** All of them, in the order of the manual page. */
export const NBD_OPTIONS: readonly NbdOption[] = [
  { name: "device", value: "DEVICE", summary: "nbd3, /dev/nbd3 or 3; default: the kernel picks a free one" },
  {
    name: "connections",
    value: "N",
    summary: `number of links between kernel and workers; default: ${DEFAULTS.connections}`,
  },
  {
    name: "block-size",
    value: "BYTES",
    summary: "the device's block size; default: that of the image",
  },
  {
    name: "timeout",
    value: "SECONDS",
    summary: `the kernel's request timeout, or never; default: ${DEFAULTS.timeout}`,
  },
  {
    name: "dead-timeout",
    value: "SECONDS",
    summary: `how long the kernel holds reads with no link; default: ${DEFAULTS.deadTimeout}`,
  },
  {
    name: "io-timeout",
    value: "MS",
    summary: `requeue timer of reads that were on a dead link; default: ${DEFAULTS.ioTimeout}`,
  },
  {
    name: "hang-timeout",
    value: "MS",
    summary: `time without progress after which a worker is replaced; default: ${DEFAULTS.hangTimeout}`,
  },
  { name: "run-dir", value: "DIR", summary: "where the manager's files live; default: /run/erofs-nbd" },
];

const PREFIX = "nbd.";
const MIN_BLOCK_BYTES = 512;
const WORD_OF: Readonly<Record<string, Exclude<keyof AttachWords, "netlink" | "ioctl">>> = {
  device: "device",
  connections: "connections",
  "block-size": "blockSize",
  timeout: "timeout",
  "dead-timeout": "deadTimeout",
  "io-timeout": "ioTimeout",
  "hang-timeout": "hangTimeout",
};

/** A parsed mount option list. */
export interface MountOptions {
  readonly device: DeviceParams;
  /** nbd.run-dir. */
  readonly runDir: string | undefined;
  /** For mount(8): `ro` first, then all other options in their order. */
  readonly forMount: readonly string[];
  readonly isRemount: boolean;
  /** `fsoffset`, which `forMount` has as well; 0 without it. */
  readonly offsetBytes: number;
  /** Values of `device`, in their order: images, or block devices, with further data of the file system. */
  readonly extraImages: readonly string[];
  /** `nofail`: a missing image is no failure. */
  readonly isNofail: boolean;
  /** Unknown options that were dropped because of `mount -s`. */
  readonly ignored: readonly string[];
}

/**
 * @param text options separated by commas
 * @param isSloppy drop unknown options instead of throwing (mount -s)
 * @throws ErofsNbdError ERR_BAD_ARGUMENT
 */
export function readMountOptions(text: string, isSloppy: boolean): MountOptions {
  const words: { -readonly [K in keyof AttachWords]: AttachWords[K] } = { ...DEFAULTS };
  const forMount = ["ro"];
  const ignored: string[] = [];
  const extraImages: string[] = [];
  let runDir: string | undefined;
  let isRemount = false;
  let isNofail = false;
  let offsetBytes = 0;
  for (const item of splitOptions(text)) {
    const [name, value] = cut(item);
    if (name.startsWith(PREFIX)) {
      const own = name.slice(PREFIX.length);
      const word = Object.hasOwn(WORD_OF, own) ? WORD_OF[own] : undefined;
      if (word === undefined && own !== "run-dir") {
        if (!isSloppy) throw unknownOption(name);
        ignored.push(item);
        continue;
      }
      if (value === undefined) throw invalidValue("mount option", name, `a value: ${name}=VALUE`);
      if (word === undefined) runDir = value;
      else words[word] = value;
    } else if (name === "nofail") isNofail = true;
    else if (name === "device") extraImages.push(readPath(value));
    else if (name === "fsoffset") offsetBytes = readOffset(value);
    else if (isSloppy && !isKnownMountOption(name)) ignored.push(item);
    else if (!isImplied(name)) {
      isRemount ||= name === "remount";
      forMount.push(item);
    }
  }
  // The last one counts, as for the kernel, which takes other spellings of numbers as well.
  if (offsetBytes > 0) forMount.push(`fsoffset=${offsetBytes}`);
  const device = readAttachParams(words, PREFIX);
  return { device, runDir, forMount, isRemount, offsetBytes, extraImages, isNofail, ignored };
}

/**
 * The options of a list, without empty ones. As in mount(8), a comma within double quotes or after a backslash does not
 * separate options: security contexts contain commas.
 */
export function splitOptions(text: string): string[] {
  const items: string[] = [];
  let item = "";
  let isQuoted = false;
  let before = "";
  for (const character of text) {
    if (character === '"') isQuoted = !isQuoted;
    if (character === "," && !isQuoted && before !== "\\") {
      items.push(item);
      item = "";
    } else item += character;
    before = character;
  }
  return [...items, item].filter((one) => one !== "");
}

/** EROFS is always read-only. mount(8) itself adds `rw`, which the kernel would reject. */
function isImplied(name: string): boolean {
  return name === "ro" || name === "rw" || name === "defaults";
}

/** Quotes protect commas; see splitOptions. @throws ErofsNbdError ERR_BAD_ARGUMENT */
function readPath(value = ""): string {
  const path = value.replace(/^"(.*)"$/, "$1").replaceAll("\\,", ",");
  if (path !== "") return path;
  throw invalidValue("mount option device", value, "the path of an image");
}

/** Blocks have at least 512 bytes, and the kernel wants whole ones. @throws ErofsNbdError ERR_BAD_ARGUMENT */
function readOffset(value: string | undefined): number {
  const bytes = /^(?:0x[\da-f]+|0|[1-9]\d*)$/i.test(value ?? "") ? Number(value) : Number.NaN;
  if (Number.isSafeInteger(bytes) && bytes % MIN_BLOCK_BYTES === 0) return bytes;
  throw invalidValue("mount option fsoffset", value ?? "", "a number of bytes, a multiple of the block size");
}

function cut(item: string): [name: string, value: string | undefined] {
  const at = item.indexOf("=");
  return at === -1 ? [item, undefined] : [item.slice(0, at), item.slice(at + 1)];
}

function unknownOption(name: string): ErofsNbdError {
  const names = NBD_OPTIONS.map((option) => `${PREFIX}${option.name}`).join(", ");
  return new ErofsNbdError("ERR_BAD_ARGUMENT", `unknown mount option '${name}'`, {
    hint: `the options of erofs-nbd are ${names}`,
  });
}
