/**
 * How it is ensured that the bytes of an image are those that were attached. Types only.
 */

export interface Exactness {
  /**
   * "lease": a read lease keeps writers out. "checked": copies are checked against the file's time before they leave.
   */
  readonly exact: "lease" | "checked";
  /** What has changed in the file since the attach, so that its reads fail, in words. Null if nothing has. */
  readonly change: string | null;
  /** The pinned modification time of the file; see FileSource. A decimal string. */
  readonly mtimeNs: string;
}
