/** Types of stuck-guest.mjs for TypeScript callers. */
export interface Stuck {
  readonly kind: "no-start" | "lost-timer";
  readonly why: string;
}
export declare function watchForStuck(
  guest: { share: string; isEmulated: boolean; startMs?: number | undefined },
  onStuck: (stuck: Stuck) => void,
): { close(): void };
