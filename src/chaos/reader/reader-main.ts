/**
 * The reader process: opens device and image, and follows the engine's messages on the channel.
 *
 * Started by reader.ts; nothing imports it. It exits on the engine's message, or when the engine is gone, so that a
 * killed run leaves no reader behind. A read that never returns blocks it, so it is a process of its own.
 */
import { constants, openSync } from "node:fs";
import { randomFrom } from "../schedule.ts";
import { BlockReader } from "./block-reader.ts";
import { ImageReference } from "./image-reference.ts";
import { ReadPattern } from "./read-pattern.ts";
import type { ReaderMessage, ReaderRequest, ReaderStart } from "./reader-protocol.ts";

let reader: BlockReader | undefined;

function send(message: ReaderMessage): void {
  if (!process.connected) return;
  // The engine may exit during the send. `disconnect` follows, so the error needs no handling.
  process.send?.(message, undefined, undefined, () => {
    const isLast = message.type === "stopped" || message.type === "failed";
    if (isLast && process.connected) process.disconnect();
  });
}

function begin(start: ReaderStart): BlockReader | undefined {
  try {
    return open(start);
  } catch (error) {
    send({ type: "failed", why: error instanceof Error ? error.message : String(error) });
    return undefined;
  }
}

function open(start: ReaderStart): BlockReader {
  const fd = openSync(start.device, constants.O_RDONLY | (start.direct ? constants.O_DIRECT : 0));
  const random = randomFrom(start.seed, 4);
  const pattern = new ReadPattern(start.deviceBytes, start.blockSizeBytes, start.largeSlots, random);
  const imageFd = openSync(start.image, constants.O_RDONLY);
  const reference = new ImageReference(imageFd, start.imageBytes, pattern.longestBytes);
  const { depth, beginMs, spanMs } = start;
  const made = new BlockReader({ fd, pattern, reference, depth, beginMs, spanMs, send });
  setInterval(() => made.flush(), spanMs).unref();
  made.start();
  return made;
}

process.title = "erofs-nbd reader";
// Ctrl-C reaches the whole process group; the engine decides when to stop.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit());
process.on("message", (message: ReaderRequest) => {
  if (message.type === "start") reader = begin(message);
  else if (message.type === "open") reader?.open();
  else if (message.type === "settle") reader?.settle();
  else reader?.stop();
});
