/**
 * What can be said of how far the bytes of an image are those that were opened. Types only.
 */

export interface Exactness {
  /** A read lease keeps the file as it is; or what was copied is checked against the file's time before it leaves. */
  readonly exact: "lease" | "checked";
  /** What has changed in the file since the attach, in words: its reads are answered with errors. Null while nothing has. */
  readonly change: string | null;
  /** The file's modification time as it counts now; see FileSource. A decimal string. */
  readonly mtimeNs: string;
}
