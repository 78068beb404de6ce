/**
 * A custom source: an image in several files, such as `split -b 64M` creates, served as one device.
 *
 * Workers load this module and call `open` with the options of the attach; see attach-split-image.mjs for that. The
 * parts and this file must be readable for the user that workers run as.
 */
import { open as openFile } from "node:fs/promises";

/** @type {import("erofs-nbd").OpenCustomSource<{ parts: string[] }>} */
export async function open({ parts }) {
  const files = await Promise.all(parts.map((path) => openFile(path)));
  const sizes = await Promise.all(files.map(async (file) => (await file.stat()).size));
  const starts = sizes.map((_, at) => sizes.slice(0, at).reduce((sum, size) => sum + size, 0));
  return {
    sizeBytes: sizes.reduce((sum, size) => sum + size, 0),
    async read(target, offsetBytes) {
      for (let filled = 0; filled < target.length; ) {
        const at = offsetBytes + filled;
        const part = starts.findLastIndex((start) => start <= at);
        const rest = target.subarray(filled, filled + starts[part] + sizes[part] - at);
        const { bytesRead } = await files[part].read(rest, 0, rest.length, at - starts[part]);
        if (bytesRead === 0) throw new Error(`${parts[part]} is shorter than it was`);
        filled += bytesRead;
      }
    },
    close: () => files.forEach((file) => void file.close()),
  };
}
