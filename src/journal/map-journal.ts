/** The journal in a file, as the manager maps it. */
import { mapShared, unmapShared } from "../sys/libc/memory.ts";
import { Journal } from "./journal.ts";
import { JOURNAL_BYTES } from "./layout.ts";

/** Maps the file of a journal. The caller unmaps the memory. @throws SystemError; Error when it has another layout */
export function mapJournal(fd: number): { readonly memory: ArrayBuffer; readonly journal: Journal } {
  const memory = mapShared(fd, JOURNAL_BYTES);
  try {
    return { memory, journal: new Journal(memory) };
  } catch (error) {
    unmapShared(memory);
    throw error;
  }
}
