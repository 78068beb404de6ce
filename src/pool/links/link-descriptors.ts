/** What a link consists of for the pool, in descriptors. HeldLink takes them over. */

/** Descriptors of a link, all close-on-exec. */
export interface LinkDescriptors {
  readonly serverFd: number;
  readonly kernelFd: number;
  readonly journalFd: number;
  readonly pipe: readonly [number, number];
  /** An open file description of the image with a read lease on it, if the link's worker has one. */
  readonly leaseFd?: number | undefined;
}

/** The file of a journal, open. */
export interface JournalFile {
  readonly fd: number;
  readonly path: string;
}
