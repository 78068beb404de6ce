// @ts-check
/**
 * Follows a guest's growing output files and passes on what is added, by change notification, not by polling.
 *
 * boot.mjs calls it. hostfs writes to the host's file at once, so a line is seen when the guest printed it.
 */
import { closeSync, openSync, readSync, watch } from "node:fs";
import { join } from "node:path";
import { StringDecoder } from "node:string_decoder";

const CHUNK_BYTES = 65_536;

/**
 * Starts following `stdout` and `stderr` in `directory`; `close()` passes on the rest and ends it.
 * @param {string} directory
 * @param {((stream: "stdout" | "stderr", text: string) => void) | undefined} onOutput
 * @returns {{ close(): void }}
 */
export function followOutput(directory, onOutput) {
  if (onOutput === undefined) return { close() {} };
  const streams = /** @type {const} */ (["stdout", "stderr"]).map((name) =>
    follower(join(directory, name), (text) => onOutput(name, text)),
  );
  const drain = () => {
    for (const stream of streams) stream.drain();
  };
  const watcher = watch(directory, drain);
  return {
    close() {
      watcher.close();
      drain();
      for (const stream of streams) stream.close();
    },
  };
}

/**
 * @param {string} path
 * @param {(text: string) => void} emit
 */
function follower(path, emit) {
  const fd = openSync(path, "r");
  const buffer = Buffer.alloc(CHUNK_BYTES);
  const decoder = new StringDecoder("utf8");
  let at = 0;
  return {
    drain() {
      for (;;) {
        const count = readSync(fd, buffer, 0, buffer.length, at);
        if (count === 0) return;
        at += count;
        emit(decoder.write(buffer.subarray(0, count)));
      }
    },
    close() {
      closeSync(fd);
    },
  };
}
