/**
 * Makes the links of a pool, and makes one of the dead link that it replaces where nothing can be acquired.
 *
 * A full file system refuses a journal, and a table without room refuses a descriptor, at the very moment when reads
 * wait.
 */
import type { LinkObserver, LinkRequest } from "../../supervisor/ports.ts";
import { createLink, discardJournal } from "./create-link.ts";
import type { HeldLink } from "./held-link.ts";
import type { JournalFile } from "./link-descriptors.ts";

export class LinkMaker {
  readonly #directory: string;
  /** Journals of dead links whose successors could not be opened yet. */
  readonly #spares: JournalFile[] = [];

  /** `directory` is that of the journals. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** `former` is the dead link that it replaces, if there is one. @throws as createLink */
  make(number: number, request: LinkRequest, observer: LinkObserver, former: HeldLink | undefined): HeldLink {
    try {
      const link = createLink(number, request, observer, this.#directory);
      this.discardSpares();
      return link;
    } catch (error) {
      const used = this.#spares.pop() ?? former?.surrenderJournal();
      if (used === undefined) throw error;
      try {
        return createLink(number, request, observer, this.#directory, used);
      } catch (second) {
        this.#spares.push(used);
        throw second;
      }
    }
  }

  /** No worker has taken the link. Keeps its journal if a dead link waits for it: the next may not be to be had. */
  giveUp(link: HeldLink): void {
    const journal = link.request.former === undefined ? undefined : link.surrenderJournal();
    if (journal !== undefined) this.#spares.push(journal);
    link.close();
    link.closeKernelEnd();
  }

  discardSpares(): void {
    for (const journal of this.#spares.splice(0)) discardJournal(journal);
  }
}
