/**
 * Loads a source module and reports what it makes: size, identity and first bytes.
 *
 * Called in a worker that serves no links, so that code of a module never runs in the manager.
 */
import { ModuleSource, openCustomSource } from "../source/module-source.ts";
import { type FromWorker, HEAD_PIECE_BYTES, type ToWorker } from "../worker-protocol/messages.ts";

export async function inspectSource(
  { path, options, headBytes }: Extract<ToWorker, { type: "inspect" }>,
  tell: (message: FromWorker) => void,
): Promise<void> {
  try {
    const inner = await openCustomSource(path, options);
    const { sizeBytes } = inner;
    const head = new Uint8Array(Math.min(headBytes, sizeBytes));
    await new ModuleSource(inner, path, -1).read(head, 0);
    const identity = inner.identity ?? null;
    for (let at = 0; at < head.length; at += HEAD_PIECE_BYTES) {
      const piece = Buffer.from(head.subarray(at, at + HEAD_PIECE_BYTES)).toString("base64");
      tell({ type: "head", piece });
    }
    tell({ type: "inspected", sizeBytes, identity });
  } catch (error) {
    tell({ type: "uninspectable", message: error instanceof Error ? error.message : String(error) });
  }
}
