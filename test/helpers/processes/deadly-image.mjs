// @ts-check
/**
 * Loaded into a manager and its workers with NODE_OPTIONS=--import: images whose reads kill or block the worker.
 *
 * While DEADLY_IMAGES/INODE.kills exists a worker aborts whenever it is about to answer a read of the image with that
 * inode, and while there is an INODE.loops it never comes back from there: as with a bug in the reading of that image.
 * Nothing else is changed, and nothing in other processes. By inode, and in a place that every user may read: a
 * worker may not follow the paths of its images.
 */
import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";

const program = process.argv[1] ?? "";
const place = process.env["DEADLY_IMAGES"] ?? "";

if (program.endsWith("/worker/main.cjs")) {
  const from = (/** @type {string} */ path) => import(new URL(path, pathToFileURL(program)).href);
  const { FileSource } = await from("../source/file-source.js");
  const verify = FileSource.prototype.verify;
  FileSource.prototype.verify = function () {
    const { inode } = this.identity;
    if (existsSync(`${place}/${inode}.kills`)) process.abort();
    if (existsSync(`${place}/${inode}.loops`)) for (;;);
    return verify.call(this);
  };
  // Instead of the bundle that the program is, whose classes are others. It ends the process itself.
  await from("./start.js");
  await new Promise(() => {});
}
