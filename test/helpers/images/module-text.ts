/** The text of a source module whose options make it fail in every way, and the bytes that it serves. */
export const SIZE: number = 300_000;

/** Byte N is N modulo 251. */
export const SOURCE: string = `
import { appendFileSync } from "node:fs";
export function open(options) {
  if (options.log) appendFileSync(options.log, "open\\n");
  return {
    sizeBytes: options.sizeBytes ?? ${SIZE},
    identity: options.identity,
    async read(target, offsetBytes) {
      if (offsetBytes === options.failAt) throw new Error("no luck at " + offsetBytes);
      if (offsetBytes === options.shortAt) return target.length - 1;
      if (offsetBytes === options.waitAt) await new Promise(() => {});
      if (offsetBytes === options.spinAt) for (;;);
      if (offsetBytes === options.dieAt) process.exit(3);
      for (let at = 0; at < target.length; at += 1) target[at] = (offsetBytes + at) % 251;
    },
    close() { if (options.log) appendFileSync(options.log, "close\\n"); },
  };
}`;
export const expected = (offsetBytes: number, lengthBytes: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: lengthBytes }, (_, at) => (offsetBytes + at) % 251));
