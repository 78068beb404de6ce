/** When a worker is found hung, and when it is not, tick by tick. */
import { describe, expect, test } from "vitest";
import {
  DEFAULT_PATIENCE_MS,
  grownPatience,
  type HangVerdict,
  HangWatch,
  MAX_PATIENCE_MS,
  SLOW_SOURCE_MS,
  TICK_INTERVAL_MS,
  type WatchedLink,
} from "../../../../src/pool/policy/hang-watch.ts";

const AFTER_A_LONG_TIME_MS = 120_000;

const link = (state: Partial<WatchedLink> = {}): WatchedLink => ({
  link: 1,
  answered: 0,
  waiting: false,
  patienceMs: DEFAULT_PATIENCE_MS,
  asynchronous: false,
  ...state,
});

/** A worker as the pool sees it; `run` ticks until a verdict or the end of a time. */
class Scene {
  nowMs = 1000;
  pongs = 0;
  links: WatchedLink[] = [];
  answersPings = true;
  readonly watch = new HangWatch({ workerPid: 4712, nowMs: this.nowMs });

  constructor(...links: WatchedLink[]) {
    this.links = links;
  }

  tick(gapMs: number = TICK_INTERVAL_MS): HangVerdict | undefined {
    this.nowMs += gapMs;
    if (this.answersPings) this.pongs = (this.pongs + 1) % 2 ** 32;
    return this.watch.tick({ nowMs: this.nowMs, pongs: this.pongs, links: this.links });
  }

  run(forMs: number, before?: (tick: number) => void): { verdict: HangVerdict; afterMs: number } | undefined {
    const start = this.nowMs;
    for (let tick = 0; this.nowMs + TICK_INTERVAL_MS <= start + forMs; tick++) {
      before?.(tick);
      const verdict = this.tick();
      if (verdict !== undefined) return { verdict, afterMs: this.nowMs - start };
    }
    return undefined;
  }

  change(number: number, state: Partial<WatchedLink>): void {
    this.links = this.links.map((known) => (known.link === number ? { ...known, ...state } : known));
  }

  answer(number: number, count = 1): void {
    const known = this.links.find((candidate) => candidate.link === number);
    if (known !== undefined) this.change(number, { answered: (known.answered + count) % 2 ** 32 });
  }
}

describe("HangWatch and a worker that says nothing", () => {
  const stopped: Array<[string, WatchedLink[]]> = [
    ["without links", []],
    ["with an idle link", [link()]],
    ["with waiting requests", [link({ waiting: true })]],
    ["with an asynchronous source", [link({ asynchronous: true })]],
    ["with an asynchronous source and waiting requests", [link({ asynchronous: true, waiting: true })]],
  ];
  test.each(stopped)(
    "finds one %s within the patience, yet not before most of it has gone by",
    (_, links) => {
      const scene = new Scene(...links);
      expect(
        scene.run(10_000, () => links.forEach((known) => void scene.answer(known.link))),
      ).toBeUndefined();
      scene.answersPings = false;
      const found = scene.run(AFTER_A_LONG_TIME_MS);
      expect(found?.afterMs).toBeLessThanOrEqual(DEFAULT_PATIENCE_MS);
      expect(found?.afterMs).toBeGreaterThan(DEFAULT_PATIENCE_MS / 2);
      expect(found?.verdict.link).toBeUndefined();
      expect(found?.verdict.reason).toMatch(
        /^worker 4712 has not answered for 1\.\d s: stopped, or in an endless loop$/,
      );
    },
  );

  test("reports it again while nothing changes, and withdraws it at an answer", () => {
    const scene = new Scene();
    scene.answersPings = false;
    const first = scene.run(5000)?.verdict.silentMs ?? Number.NaN;
    expect(scene.tick()?.silentMs).toBe(first + TICK_INTERVAL_MS);
    scene.answersPings = true;
    expect(scene.tick()).toBeUndefined();
  });

  test("uses the smallest timeout among its links", () => {
    const scene = new Scene(link({ link: 1, patienceMs: 20_000 }), link({ link: 2, patienceMs: 5000 }));
    scene.answersPings = false;
    const afterMs = scene.run(AFTER_A_LONG_TIME_MS)?.afterMs;
    expect(afterMs).toBeGreaterThan(4000);
    expect(afterMs).toBeLessThanOrEqual(5000);
  });

  test("uses the timeout of the link whose code runs, and blames that link", () => {
    const scene = new Scene(
      link({ link: 1, waiting: true }),
      link({ link: 7, patienceMs: 8000, busy: true, waiting: true }),
    );
    scene.answersPings = false;
    const found = scene.run(AFTER_A_LONG_TIME_MS);
    expect(found?.afterMs).toBeGreaterThan(7000);
    expect(found?.afterMs).toBeLessThanOrEqual(8000);
    expect(found?.verdict.link).toBe(7);
    expect(found?.verdict.reason).toBe(
      "worker 4712 has not answered for 7.8 s: stopped, or stuck in a read of link 7",
    );
  });

  test("takes progress on any link for an answer", () => {
    const scene = new Scene(link({ link: 1, waiting: true }), link({ link: 2, waiting: true }));
    scene.answersPings = false;
    const progress = (tick: number): void => {
      if (tick % 5 === 0) scene.answer(2);
    };
    expect(scene.run(SLOW_SOURCE_MS - 5000, progress)).toBeUndefined();
  });

  test("raises a timeout that its ticks cannot tell from a delay", () => {
    const scene = new Scene(link({ patienceMs: 1 }));
    scene.answersPings = false;
    expect(scene.run(AFTER_A_LONG_TIME_MS)?.afterMs).toBeGreaterThanOrEqual(4 * TICK_INTERVAL_MS);
  });

  test("keeps a shorter timeout with a shorter interval", () => {
    const watch = new HangWatch({ workerPid: 1, nowMs: 0, intervalMs: 50 });
    const links = [link({ patienceMs: 400 })];
    const at = [...Array(20).keys()].map((index) => (index + 1) * 50);
    const foundAt = at.find((nowMs) => watch.tick({ nowMs, pongs: 0, links }) !== undefined);
    expect(foundAt).toBe(350);
  });
});

describe("HangWatch and a link on which nothing moves", () => {
  test("a synchronous source: within the patience, though the worker answers pings", () => {
    const scene = new Scene(link({ link: 1 }), link({ link: 2 }));
    expect(scene.run(5000)).toBeUndefined();
    scene.change(2, { waiting: true });
    const found = scene.run(AFTER_A_LONG_TIME_MS);
    expect(found?.afterMs).toBeLessThanOrEqual(DEFAULT_PATIENCE_MS);
    expect(found?.verdict.link).toBe(2);
    expect(found?.verdict.reason).toMatch(
      /^worker 4712 has answered nothing on link 2 for 1\.\d s though requests wait$/,
    );
  });

  test("an asynchronous source: only after a long time", () => {
    const scene = new Scene(link({ waiting: true, asynchronous: true }));
    const found = scene.run(AFTER_A_LONG_TIME_MS);
    expect(found?.afterMs).toBeGreaterThan(SLOW_SOURCE_MS - 1000);
    expect(found?.afterMs).toBeLessThanOrEqual(SLOW_SOURCE_MS);
  });

  test("an asynchronous source whose patience is longer still keeps it", () => {
    const scene = new Scene(link({ waiting: true, asynchronous: true, patienceMs: 50_000 }));
    expect(scene.run(49_000)).toBeUndefined();
    expect(scene.run(1000)?.verdict.link).toBe(1);
  });

  test("a slow source that moves is none", () => {
    const scene = new Scene(link({ waiting: true }));
    const onceInASecond = (tick: number): void => {
      if (tick % 4 === 0) scene.answer(1);
    };
    expect(scene.run(AFTER_A_LONG_TIME_MS, onceInASecond)).toBeUndefined();
  });

  test("an idle link is none, however long nothing moves", () => {
    expect(new Scene(link(), link({ link: 2 })).run(AFTER_A_LONG_TIME_MS)).toBeUndefined();
  });

  test("a request counts from when it came, not from the last answer", () => {
    const scene = new Scene(link());
    for (let round = 0; round < 10; round++) {
      expect(scene.run(10_000)).toBeUndefined();
      scene.change(1, { waiting: true });
      expect(scene.run(1000)).toBeUndefined();
      scene.change(1, { waiting: false });
      scene.answer(1);
    }
  });

  test("while other links move, it is given the time of a slow source", () => {
    const scene = new Scene(link({ link: 1, waiting: true }), link({ link: 2, waiting: true }));
    const found = scene.run(AFTER_A_LONG_TIME_MS, () => scene.answer(2));
    expect(found?.verdict.link).toBe(1);
    expect(found?.afterMs).toBeGreaterThan(SLOW_SOURCE_MS - 1000);
    expect(found?.afterMs).toBeLessThanOrEqual(SLOW_SOURCE_MS);
  });

  test("a link that has just come has its time before it; one that has gone is forgotten", () => {
    const scene = new Scene(link({ link: 1, waiting: true }));
    expect(scene.run(1000)).toBeUndefined();
    scene.links = [link({ link: 2, waiting: true, answered: 5 })];
    expect(scene.run(1250)).toBeUndefined();
    // The same number again is another story.
    scene.links = [link({ link: 1, waiting: true })];
    expect(scene.run(1250)).toBeUndefined();
    expect(scene.run(1000)?.verdict.link).toBe(1);
  });
});

test("counters that wrap at 2^32 are progress like any other", () => {
  const scene = new Scene(link({ waiting: true, answered: 2 ** 32 - 3 }));
  scene.pongs = 2 ** 32 - 3;
  const seen: number[] = [];
  const answer = (): void => {
    scene.answer(1);
    seen.push(scene.links[0]?.answered ?? -1);
  };
  expect(scene.run(10_000, answer)).toBeUndefined();
  expect(seen).toContain(0);
  expect(scene.pongs).toBeLessThan(100);
});

describe("HangWatch in a manager that was away", () => {
  test("finds no worker hung right after it", () => {
    const scene = new Scene(link({ waiting: true }));
    expect(scene.run(3000, () => scene.answer(1))).toBeUndefined();
    scene.answersPings = false;
    expect(scene.run(1250)).toBeUndefined();
    expect(scene.tick(3_600_000)).toBeUndefined();
    for (let tick = 1; tick < 4; tick++) expect(scene.tick()).toBeUndefined();
  });

  test("counts the time before, without the absence, once the worker could have answered", () => {
    const scene = new Scene();
    scene.answersPings = false;
    expect(scene.run(1500)).toBeUndefined();
    scene.tick(3_600_000);
    expect(scene.run(AFTER_A_LONG_TIME_MS)).toMatchObject({ afterMs: 1000, verdict: { silentMs: 2500 } });
  });

  test("gives a full timeout to one that answered before", () => {
    const scene = new Scene();
    expect(scene.run(5000)).toBeUndefined();
    scene.answersPings = false;
    scene.tick(60_000);
    expect(scene.run(1250)).toBeUndefined();
    expect(scene.run(500)).toBeDefined();
  });

  test("does not take ticks that catch up for time to answer", () => {
    const scene = new Scene();
    scene.answersPings = false;
    expect(scene.run(1500)).toBeUndefined();
    scene.tick(10_000);
    for (let burst = 0; burst < 20; burst++) expect(scene.tick(1)).toBeUndefined();
  });

  test("takes a clock that goes back for an absence", () => {
    const scene = new Scene();
    scene.answersPings = false;
    expect(scene.run(1500)).toBeUndefined();
    expect(scene.tick(-700)).toBeUndefined();
    for (let tick = 1; tick < 4; tick++) expect(scene.tick()).toBeUndefined();
    expect(scene.tick()).toBeDefined();
  });

  test("is not taken for one that is always late, because it was once in time", () => {
    const scene = new Scene();
    for (let tick = 0; tick < 30; tick++) scene.tick(700);
    scene.answersPings = false;
    expect(scene.tick(3_600_000)).toBeUndefined();
  });

  test("finds a stopped worker although its ticks are always late, and never one that answers", () => {
    const scene = new Scene();
    for (let tick = 0; tick < 200; tick++) expect(scene.tick(700)).toBeUndefined();
    scene.answersPings = false;
    const wellAtMs = scene.nowMs;
    let verdict: HangVerdict | undefined;
    while (verdict === undefined && scene.nowMs < wellAtMs + 60_000) verdict = scene.tick(700);
    expect(scene.nowMs - wellAtMs).toBeGreaterThan(30_000);
    expect(verdict?.reason).toMatch(/^worker 4712 has not answered for 3\d\.\d s: stopped/);
  });
});

test.each([
  [2000, 0, 2000],
  [2000, 1, 4000],
  [2000, 3, 16_000],
  [2000, 5, MAX_PATIENCE_MS],
  [2000, 5000, MAX_PATIENCE_MS],
  [90_000, 0, 90_000],
  [90_000, 3, 90_000],
])("grownPatience(%i, %i) is %i ms", (baseMs, hangs, expected) => {
  expect(grownPatience(baseMs, hangs)).toBe(expected);
});
