// @ts-check
/**
 * A worker whose reads of chosen images hang: the real one, with FileSource.verify replaced.
 *
 *   HANGING_IMAGES=DIR node hanging-worker.mjs
 *
 * While DIR/INODE.hangs exists, a worker sleeps before it answers a read of the image with that inode, as in
 * a read of a file system that does not answer. Each such read adds the line "PID INODE" to DIR/reads.
 */
import { existsSync, openSync, writeSync } from "node:fs";
import { FileSource } from "../../../dist/src/source/file-source.js";

const place = process.env["HANGING_IMAGES"] ?? "";
// Opened now: a worker has no rights later.
const logFd = openSync(`${place}/reads`, "a");
const pause = new Int32Array(new SharedArrayBuffer(4));
const verify = FileSource.prototype.verify;
FileSource.prototype.verify = function () {
  const trigger = `${place}/${this.identity.inode}.hangs`;
  if (existsSync(trigger)) writeSync(logFd, `${process.pid} ${this.identity.inode}\n`);
  while (existsSync(trigger)) Atomics.wait(pause, 0, 0, 2);
  return verify.call(this);
};
await import("../../../dist/src/worker/start.js");
