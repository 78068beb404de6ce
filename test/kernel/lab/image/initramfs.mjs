// @ts-check
/**
 * Writes the initramfs of a guest: busybox, the overlay module, the first init script. Pure: bytes in, bytes
 * out; kernels.mjs stores the result.
 *
 * The archive is newc cpio (kernel: Documentation/driver-api/early-userspace/buffer-format.rst), written here
 * because device nodes in it then need no root and no cpio program.
 */

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFCHR = 0o020000;
const S_IFLNK = 0o120000;

/**
 * @typedef {{ path: string, mode: number, data?: Uint8Array, major?: number, minor?: number }} Entry one archive
 *   member; `mode` with its type bits, `path` without a leading slash
 */

/**
 * Builds the archive.
 * @param {{ busybox: Uint8Array, overlayModule: Uint8Array | undefined, init: Uint8Array }} parts
 * @returns {Buffer} uncompressed cpio
 */
export function buildInitramfs(parts) {
  const text = (/** @type {string} */ value) => Buffer.from(value, "utf8");
  /** @type {Entry[]} */
  const entries = [
    ...["bin", "dev", "proc", "sys", "host", "scratch", "newroot"].map((path) => ({
      path,
      mode: S_IFDIR | 0o755,
    })),
    { path: "dev/console", mode: S_IFCHR | 0o600, major: 5, minor: 1 },
    { path: "bin/busybox", mode: S_IFREG | 0o755, data: parts.busybox },
    { path: "bin/sh", mode: S_IFLNK | 0o777, data: text("busybox") },
    { path: "init", mode: S_IFREG | 0o755, data: parts.init },
  ];
  if (parts.overlayModule !== undefined) {
    entries.push({ path: "overlay.ko", mode: S_IFREG | 0o644, data: parts.overlayModule });
  }
  return packCpio(entries);
}

/**
 * @param {readonly Entry[]} entries
 * @returns {Buffer}
 */
export function packCpio(entries) {
  const chunks = entries.map((entry, index) => member(entry, index + 1));
  chunks.push(member({ path: "TRAILER!!!", mode: 0 }, 0));
  return Buffer.concat(chunks);
}

/**
 * One member: 6 bytes magic, 13 fields of 8 hex digits, name with NUL, data; name and data padded to 4 bytes.
 * @param {Entry} entry
 * @param {number} inode
 */
function member(entry, inode) {
  const name = Buffer.from(`${entry.path}\0`, "utf8");
  const data = entry.data ?? new Uint8Array(0);
  const fields = [
    inode,
    entry.mode,
    0, // uid
    0, // gid
    1, // links
    0, // mtime
    data.length,
    0, // device of the file system
    0,
    entry.major ?? 0,
    entry.minor ?? 0,
    name.length,
    0, // checksum, unused in this format
  ];
  const head = `070701${fields.map((value) => value.toString(16).padStart(8, "0")).join("")}`;
  return Buffer.concat([pad(Buffer.concat([Buffer.from(head, "latin1"), name])), pad(data)]);
}

/** @param {Uint8Array} bytes */
function pad(bytes) {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
