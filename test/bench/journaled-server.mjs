// @ts-check
/**
 * `serve` with a journal on every connection, as a device's links have: what a takeover costs while nothing dies.
 *
 *   node journaled-server.mjs SOCKET IMAGE
 *
 * One of the servers that main.mjs compares. Needs a build.
 */
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { Journal } from "../../dist/src/journal/journal.js";
import { JOURNAL_BYTES } from "../../dist/src/journal/layout.js";
import { NbdServer } from "../../dist/src/serving/nbd-server.js";
import { openImage } from "../../dist/src/source/open-image.js";
import { openSource } from "../../dist/src/source/source-spec.js";
import { allocateFile, mapShared } from "../../dist/src/sys/libc/memory.js";
import { pipe } from "../../dist/src/sys/libc/pipes.js";
import { listenUnix } from "../../dist/src/sys/sockets/listen.js";

const [, , socket = "", path = ""] = process.argv;
const image = openImage(path);

function journal() {
  const fd = openSync(join("/dev/shm", `erofs-nbd-bench-${process.pid}`), "w+", 0o600);
  allocateFile(fd, JOURNAL_BYTES);
  const memory = mapShared(fd, JOURNAL_BYTES);
  closeSync(fd);
  const [readFd, writeFd] = pipe();
  return { journal: new Journal(memory), pipe: { readFd, writeFd }, counted: true };
}

new NbdServer(listenUnix(socket), openSource(image.spec, image.fd), "", {
  log: (level, message) => {
    if (level !== "info") process.stderr.write(`${message}\n`);
  },
  journal,
});
process.once("SIGTERM", () => process.exit(0));
