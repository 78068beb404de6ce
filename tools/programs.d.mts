/** A program that the build makes one file of. */
export interface Program {
  /** A source. */
  readonly entry: string;
  /** What is made of it, below dist/. */
  readonly file: string;
  /** Dynamic imports that are not followed, because main.ts starts something else where they would be needed. */
  readonly without?: RegExp;
  /** It has a code cache, made of what is compiled when these words have been obeyed. */
  readonly cachedAfter?: readonly string[];
  /** Dynamic imports that load the compiler's file. */
  readonly beside?: RegExp;
}

export declare const PROGRAMS: readonly Program[];
