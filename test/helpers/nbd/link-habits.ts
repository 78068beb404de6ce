/** Kinds of links for tests that play the kernel: what it asks for, and how it takes the replies. */
import type { LinkHabits } from "./kernel-side.ts";

const K = 1024;

const SMALL: LinkHabits = {
  depth: 32,
  lengths: [4 * K, 4 * K, 512, 8 * K],
  refusedEvery: 13,
  gulpBytes: 256 * K,
  completionTurns: 0,
};

/** The kinds of links; each comes counted and not. */
export const HABITS: Readonly<Record<string, LinkHabits & { readonly tightSocket?: true }>> = {
  small: SMALL,
  "small too": { ...SMALL, depth: 5, gulpBytes: 20 * K, completionTurns: 1 },
  "small, a slow reader": {
    depth: 16,
    lengths: [4 * K, 1 * K],
    refusedEvery: 7,
    gulpBytes: 3000,
    completionTurns: 3,
  },
  large: { depth: 4, lengths: [1024 * K, 64 * K], refusedEvery: 9, gulpBytes: 512 * K, completionTurns: 1 },
  "beyond the pipe": {
    depth: 3,
    lengths: [5120 * K, 4 * K],
    refusedEvery: 10,
    gulpBytes: 300 * K,
    completionTurns: 0,
  },
  mixed: {
    depth: 12,
    lengths: [4 * K, 128 * K, 4 * K, 4 * K, 3072 * K, 31 * K, 33 * K],
    refusedEvery: 11,
    gulpBytes: 100 * K,
    completionTurns: 2,
  },
  "mixed, hardly any room in the socket": {
    depth: 8,
    lengths: [4 * K, 100 * K, 4 * K, 32 * K, 300 * K],
    refusedEvery: 11,
    gulpBytes: 40 * K,
    completionTurns: 1,
    tightSocket: true,
  },
};
