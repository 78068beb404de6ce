// @ts-check
/**
 * Attaches an image in several files through the source in split-image.mjs, compares it with the files, and
 * detaches.
 *
 * `split -b 16M image.erofs image.part. && sudo node examples/attach-split-image.mjs image.part.*`
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { resolve } from "node:path";
import { attach } from "erofs-nbd";

const parts = process.argv.slice(2).map((path) => resolve(path));
const device = await attach({ module: new URL("./split-image.mjs", import.meta.url), options: { parts } });
try {
  const { source } = await device.status();
  console.log(`${device.device}: ${source.uri}, ${parts.length} parts, ${source.sizeBytes} bytes`);
  const found = await hash([device.device], source.sizeBytes);
  console.log(found === (await hash(parts)) ? "the device holds what the parts hold" : "THE DEVICE DIFFERS");
} finally {
  await device.detach();
}

/** @param {readonly string[]} paths @param {number} [sizeBytes] */
async function hash(paths, sizeBytes = Number.POSITIVE_INFINITY) {
  const sum = createHash("sha256");
  for (const path of paths)
    for await (const chunk of createReadStream(path, { end: sizeBytes - 1 })) sum.update(chunk);
  return sum.digest("hex");
}
