/** Hang detection over random schedules: stopped workers are found in time, and no others. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { HangWatch, TICK_INTERVAL_MS, type WatchedLink } from "../../src/pool/policy/hang-watch.ts";

const LATEST_MS = 2 * TICK_INTERVAL_MS;
const LEAST_PATIENCE_MS = 6 * TICK_INTERVAL_MS;

const onTimeGaps = fc.array(fc.integer({ min: 1, max: LATEST_MS }), { minLength: 1, maxLength: 60 });
const anyGaps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: 150, max: LATEST_MS }) },
    { weight: 1, arbitrary: fc.integer({ min: LATEST_MS + 1, max: 10_000_000 }) },
  ),
  { minLength: 1, maxLength: 200 },
);
const counters = fc.oneof(
  fc.integer({ min: 0, max: 100 }),
  fc.integer({ min: 2 ** 32 - 100, max: 2 ** 32 - 1 }),
);
const watched = fc.record({
  answered: counters,
  waiting: fc.boolean(),
  patienceMs: fc.integer({ min: 1, max: 20_000 }),
  asynchronous: fc.boolean(),
  busy: fc.boolean(),
});
const numbered = (links: readonly Omit<WatchedLink, "link">[]): WatchedLink[] =>
  links.map((link, index) => ({ ...link, link: index }));

test("a worker that answers something on each link is never hung, whatever the clock and the pings do", () => {
  fc.assert(
    fc.property(
      anyGaps,
      fc.array(watched, { minLength: 1, maxLength: 5 }),
      fc.nat(1),
      (gaps, links, pongStep) => {
        const watch = new HangWatch({ workerPid: 1, nowMs: 0 });
        let nowMs = 0;
        gaps.forEach((gap, index) => {
          nowMs += gap;
          const moved = numbered(links).map((link) => ({
            ...link,
            answered: (link.answered + index) % 2 ** 32,
          }));
          expect(watch.tick({ nowMs, pongs: index * pongStep, links: moved })).toBeUndefined();
        });
      },
    ),
  );
});

test("a worker that answers pings is never hung over links on which nothing waits, that come and go", () => {
  const crowds = fc.array(fc.uniqueArray(fc.nat(9), { maxLength: 6 }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(anyGaps, crowds, watched, counters, (gaps, crowd, state, pongs) => {
      const watch = new HangWatch({ workerPid: 1, nowMs: 0 });
      let nowMs = 0;
      gaps.forEach((gap, index) => {
        nowMs += gap;
        const links = (crowd[index % crowd.length] ?? []).map((link) => ({ ...state, link, waiting: false }));
        expect(watch.tick({ nowMs, pongs: (pongs + index) % 2 ** 32, links })).toBeUndefined();
      });
    }),
  );
});

test("a stopped worker is found within its patience, wherever between two ticks it stopped", () => {
  fc.assert(
    fc.property(
      onTimeGaps,
      fc.infiniteStream(fc.integer({ min: 1, max: LATEST_MS })),
      fc.array(watched, { maxLength: 4 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (gapsBefore, gapsAfter, states, when) => {
        const links = numbered(states);
        const busy = links.filter((link) => link.busy);
        const patiences = (busy.length > 0 ? busy : links).map((link) => link.patienceMs);
        const patienceMs = Math.max(LEAST_PATIENCE_MS, patiences.length > 0 ? Math.min(...patiences) : 2000);
        const watch = new HangWatch({ workerPid: 1, nowMs: 0 });
        let nowMs = 0;
        let pongs = 0;
        let stoppedAtMs = 0;
        // Serves, and answers each ping before the next tick; the last of its answers is seen after it has stopped.
        const serving = (): WatchedLink[] =>
          links.map((link) => ({ ...link, answered: link.answered + pongs }));
        for (const gap of gapsBefore) {
          stoppedAtMs = nowMs + gap * when;
          nowMs += gap;
          pongs += 1;
          expect(watch.tick({ nowMs, pongs, links: serving() })).toBeUndefined();
        }
        for (;;) {
          nowMs += gapsAfter.next().value ?? LATEST_MS;
          const verdict = watch.tick({ nowMs, pongs, links: serving() });
          if (verdict !== undefined) break;
          expect(nowMs - stoppedAtMs).toBeLessThan(patienceMs);
        }
        expect(nowMs - stoppedAtMs).toBeLessThanOrEqual(patienceMs);
        expect(nowMs - stoppedAtMs).toBeGreaterThan(patienceMs - 3 * LATEST_MS);
      },
    ),
  );
});

test("a request that a synchronous source leaves waiting is found within the patience", () => {
  fc.assert(
    fc.property(
      fc.infiniteStream(fc.integer({ min: 125, max: LATEST_MS })),
      fc.integer({ min: LEAST_PATIENCE_MS, max: 20_000 }),
      fc.nat(40),
      (gaps, patienceMs, quietTicks) => {
        const watch = new HangWatch({ workerPid: 1, nowMs: 0 });
        const link = { link: 3, answered: 5, patienceMs, asynchronous: false };
        let nowMs = 0;
        let stuckAtMs = 0;
        for (let tick = 0; ; tick++) {
          if (tick === quietTicks) stuckAtMs = nowMs;
          nowMs += gaps.next().value ?? LATEST_MS;
          const links = [{ ...link, waiting: tick >= quietTicks }];
          const verdict = watch.tick({ nowMs, pongs: tick, links });
          if (verdict !== undefined) {
            expect(tick).toBeGreaterThanOrEqual(quietTicks);
            expect(verdict.link).toBe(3);
            expect(nowMs - stuckAtMs).toBeLessThanOrEqual(patienceMs);
            return;
          }
          expect(nowMs - stuckAtMs).toBeLessThan(tick < quietTicks ? Number.POSITIVE_INFINITY : patienceMs);
        }
      },
    ),
  );
});

test("a manager that keeps being away convicts nobody, be everything silent", () => {
  const late = fc.integer({ min: LATEST_MS + 1, max: 1_000_000 });
  const absences = fc.array(fc.tuple(late, fc.nat(3)), { minLength: 1, maxLength: 19 });
  fc.assert(
    fc.property(absences, fc.array(watched, { maxLength: 4 }), (list, states) => {
      const watch = new HangWatch({ workerPid: 1, nowMs: 0 });
      let nowMs = 0;
      const tick = (gap: number): void => {
        nowMs += gap;
        expect(watch.tick({ nowMs, pongs: 7, links: numbered(states) })).toBeUndefined();
      };
      for (const [gap, onTime] of list) {
        tick(gap);
        for (let index = 0; index < onTime; index++) tick(TICK_INTERVAL_MS);
      }
    }),
  );
});

test("absences of the manager never cost a worker that answers, be it a tick late", () => {
  fc.assert(
    fc.property(anyGaps, (gaps) => {
      const watch = new HangWatch({ workerPid: 1, nowMs: 0 });
      let nowMs = 0;
      gaps.forEach((gap, index) => {
        nowMs += gap;
        // Two answers at every second tick.
        const pongs = index - (index % 2);
        expect(watch.tick({ nowMs, pongs, links: [] })).toBeUndefined();
      });
    }),
  );
});
