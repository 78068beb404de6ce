/** Crash loops over random histories: who waits, for how long, and that it ends. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { MAX_RESTART_DELAY_MS, MIN_DELAY_MS, RestartBackoff } from "../../src/pool/policy/backoff.ts";
import { BUDGET, CrashRecord, MAX_DELAY_MS, PROBATION_MS, type Role } from "../../src/pool/policy/blame.ts";
import { place, shouldMove } from "../../src/pool/policy/placement.ts";

const TICK_MS = 250;
const chance = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const guilty = fc.constantFrom<Role>("busy", "alone");
const innocent = fc.constantFrom<Role>("bystander", "unexplained");
const stories = (roles: fc.Arbitrary<Role>) =>
  fc.array(
    fc.record({
      role: roles,
      idle: fc.boolean(),
      hung: fc.boolean(),
      answers: fc.nat(2),
      servedTicks: fc.nat(30),
      waiting: fc.boolean(),
      random: chance,
    }),
    { maxLength: 60 },
  );
type Story = ReturnType<typeof stories> extends fc.Arbitrary<infer T> ? T : never;

/** Lives a story through, obeying every delay; reports each move. */
function live(
  story: Story,
  after: (trouble: CrashRecord, delayMs: number, step: Story[number]) => void = () => {},
): { trouble: CrashRecord; nowMs: number; answered: number } {
  const trouble = new CrashRecord();
  let nowMs = 0;
  let answered = 0;
  for (const step of story) {
    for (let tick = 0; tick < step.servedTicks; tick++) {
      nowMs += TICK_MS;
      trouble.served({ nowMs, answered, waiting: step.waiting });
    }
    answered = (answered + step.answers) % 2 ** 32;
    const { role, idle, hung } = step;
    trouble.died({ nowMs, role, idle, hung, answered, reason: "worker 1 exited with 1" });
    const move = trouble.nextAttempt(nowMs, () => step.random);
    const delayMs = move.kind === "later" ? move.delayMs : 0;
    expect(trouble.stalledReason(nowMs)).toBe(move.kind === "later" ? move.reason : undefined);
    after(trouble, delayMs, step);
    nowMs += delayMs;
    expect(trouble.nextAttempt(nowMs, () => step.random).kind).toBe("at-once");
  }
  return { trouble, nowMs, answered };
}

test("delays stay within their bounds, and only many strikes cost one", () => {
  fc.assert(
    fc.property(stories(fc.oneof(guilty, innocent)), (story) => {
      live(story, (trouble, delayMs) => {
        if (delayMs > 0) {
          expect(trouble.suspicion).toBeGreaterThan(BUDGET);
          expect(delayMs).toBeGreaterThan(MIN_DELAY_MS / 2 - 1e-6);
        }
        expect(delayMs).toBeLessThan(MAX_DELAY_MS + 1e-6);
      });
    }),
  );
});

test("links that no death is blamed on never wait", () => {
  fc.assert(
    fc.property(stories(innocent), (story) => {
      live(story, (_, delayMs) => expect(delayMs).toBe(0));
    }),
  );
});

test("links that answer something between any two deaths never wait", () => {
  fc.assert(
    fc.property(stories(guilty), (story) => {
      const answering = story.map((step) => ({ ...step, answers: 1 }));
      live(answering, (_, delayMs) => expect(delayMs).toBe(0));
    }),
  );
});

test("links that answer nothing wait from the first death beyond the budget, ever longer", () => {
  fc.assert(
    fc.property(fc.array(chance, { minLength: BUDGET + 1, maxLength: 40 }), (chances) => {
      const dead = {
        role: "busy",
        idle: false,
        hung: false,
        answers: 0,
        servedTicks: 3,
        waiting: true,
      } as const;
      const delays: number[] = [];
      live(
        chances.map((random) => ({ ...dead, random })),
        (_, delayMs) => void delays.push(delayMs),
      );
      delays.forEach((delayMs, index) => {
        const nominalMs = index < BUDGET ? 0 : Math.min(MIN_DELAY_MS * 2 ** (index - BUDGET), MAX_DELAY_MS);
        // The moment of the attempt is what is kept: a rounding error away from the delay.
        expect(delayMs).toBeGreaterThan(nominalMs / 2 - 1e-6);
        expect(delayMs).toBeLessThan(nominalMs + 1e-6);
      });
    }),
  );
});

test("whatever has happened, a quiet time makes a link innocent again, as if nothing had been", () => {
  fc.assert(
    fc.property(stories(fc.oneof(guilty, innocent)), fc.boolean(), (story, reading) => {
      let { trouble, nowMs, answered } = live(story);
      for (let quietMs = 0; quietMs <= PROBATION_MS; quietMs += TICK_MS) {
        nowMs += TICK_MS;
        if (reading) answered += 1;
        trouble.served({ nowMs, answered, waiting: reading });
      }
      expect(trouble.suspicion).toBe(0);
      expect(trouble.nextAttempt(nowMs, () => 0)).toEqual({ kind: "at-once", placement: "any" });
      for (let death = 0; death < BUDGET; death++) {
        trouble.died({ nowMs, answered, role: "busy", idle: false, hung: false, reason: "" });
        expect(trouble.nextAttempt(nowMs, () => 0).kind).toBe("at-once");
      }
    }),
  );
});

const suspicions = fc.oneof(fc.constant(0), fc.double({ min: 0.01, max: 20, noNaN: true }));
const crowds = fc.array(fc.array(suspicions, { maxLength: 5 }), { maxLength: 5 });

test("planned moves part suspects from innocents, create no new placement, and move nothing twice", () => {
  fc.assert(
    fc.property(crowds, (crowd) => {
      let next = 0;
      const workers = crowd.map((links, worker) => ({
        worker,
        links: links.map((suspicion) => ({ link: next++, suspicion })),
      }));
      const moved = new Set<number>();
      const isMixed = (links: readonly { suspicion: number }[]): boolean =>
        links.some(({ suspicion }) => suspicion > 0) && links.some(({ suspicion }) => suspicion === 0);
      const mixedBefore = new Set(workers.filter(({ links }) => isMixed(links)).map(({ worker }) => worker));
      for (let moves = shouldMove(workers); moves.length > 0; moves = shouldMove(workers)) {
        for (const { link, from, to } of moves) {
          expect(moved.has(link)).toBe(false);
          moved.add(link);
          const source = workers[from];
          const known = source?.links.find((candidate) => candidate.link === link);
          expect(known).toBeDefined();
          if (source === undefined || known === undefined) return;
          source.links.splice(source.links.indexOf(known), 1);
          workers[to]?.links.push(known);
        }
      }
      for (const { worker, links } of workers) if (isMixed(links)) expect(mixedBefore.has(worker)).toBe(true);
      if (mixedBefore.size < workers.length) expect(workers.some(({ links }) => isMixed(links))).toBe(false);
    }),
  );
});

test("place: innocents always find one, killers never beside innocents, and nobody mixes without need", () => {
  const worker = fc
    .record({ suspects: fc.nat(3), innocents: fc.nat(3) })
    .map((links) => ({ ...links, links: links.suspects + links.innocents }));
  fc.assert(
    fc.property(fc.array(worker, { minLength: 1, maxLength: 6 }), fc.boolean(), (candidates, isSuspect) => {
      const chosen = place(candidates, { isSuspect, placement: "any" });
      expect(chosen).toBeDefined();
      const others = isSuspect ? "innocents" : "suspects";
      const apart = candidates.filter((candidate) => candidate[others] === 0);
      if (apart.length > 0) {
        expect(chosen?.[others]).toBe(0);
        expect(chosen?.links).toBe(Math.min(...apart.map(({ links }) => links)));
      }
      const forKiller = place(candidates, { isSuspect: true, placement: "suspects-only" });
      expect(forKiller === undefined).toBe(candidates.every(({ innocents }) => innocents > 0));
      expect(forKiller?.innocents ?? 0).toBe(0);
    }),
  );
});

test("a killer hidden among links that nobody can blame is isolated by deaths and moves alone", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 6 }), fc.nat(5), (count, which) => {
      const killer = which % count;
      const troubles = [...Array(count)].map(() => new CrashRecord());
      // Two workers, of which one dies as soon as everybody has settled: first all are on one of them.
      let homes: number[] = Array(count).fill(0);
      for (let death = 0; death < 10 * count; death++) {
        const dying = homes[killer];
        const there = homes.filter((home) => home === dying).length;
        const role: Role = there === 1 ? "alone" : "unexplained";
        troubles.forEach((trouble, link) => {
          if (homes[link] !== dying) return;
          trouble.died({ nowMs: death, answered: 0, role, idle: false, hung: false, reason: "" });
        });
        if (role === "alone") return;
        // All go to the survivor; then a fresh worker takes the place of the dead one.
        const survivor = dying === 0 ? 1 : 0;
        homes = homes.map(() => survivor);
        const links = troubles.map(({ suspicion }, link) => ({ link, suspicion }));
        const moves = shouldMove([
          { worker: survivor, links },
          { worker: 1 - survivor, links: [] },
        ]);
        for (const { link, to } of moves) homes[link] = to;
      }
      expect.unreachable("the killer was never alone");
    }),
  );
});

test("restarts: at once while workers serve, bounded and ever slower while they do not", () => {
  const deaths = fc.array(fc.record({ served: fc.boolean(), livedMs: fc.nat(20_000), random: chance }));
  fc.assert(
    fc.property(deaths, (list) => {
      const backoff = new RestartBackoff();
      let nowMs = 0;
      for (const { served, livedMs, random } of list) {
        nowMs += livedMs;
        backoff.died({ nowMs, livedMs, served, blamedOnLink: false });
        const delayMs = backoff.delayMs(() => random);
        if (served || livedMs >= 5000) expect(delayMs).toBe(0);
        if (delayMs > 0) expect(delayMs).toBeGreaterThanOrEqual(MIN_DELAY_MS / 2);
        expect(delayMs).toBeLessThanOrEqual(MAX_RESTART_DELAY_MS);
        nowMs += delayMs;
      }
    }),
  );
});
