/** What the pool does with a link whose workers die: strikes, waiting, forgiveness. */
import { describe, expect, test } from "vitest";
import { MIN_DELAY_MS } from "../../../../src/pool/policy/backoff.ts";
import {
  BUDGET,
  CrashRecord,
  type LinkDeath,
  MAX_DELAY_MS,
  MAX_IDLE_DELAY_MS,
  PROBATION_MS,
  type Role,
  roleOf,
} from "../../../../src/pool/policy/blame.ts";

const TICK_MS = 250;
/** The largest chance there is, nearly: delays are their nominal size. */
const almostOne = (): number => 1 - Number.EPSILON;
const AT_ONCE = { kind: "at-once", placement: "any" };

/** A link's life as the pool sees it. */
class Life {
  readonly crashes = new CrashRecord();
  nowMs = 50_000;
  answered = 0;

  die(death: Partial<LinkDeath> = {}): void {
    const reason = "worker 4712 was killed by SIGABRT";
    const { nowMs, answered } = this;
    this.crashes.died({ nowMs, answered, role: "busy", idle: false, hung: false, reason, ...death });
  }

  /** Looks at every tick; `each` may answer something between. */
  serve(forMs: number, waiting = false, each: () => void = () => {}): void {
    const end = this.nowMs + forMs;
    this.look(waiting);
    while (this.nowMs < end) {
      this.nowMs += TICK_MS;
      each();
      this.look(waiting);
    }
  }

  look(waiting = false): void {
    this.crashes.served({ nowMs: this.nowMs, answered: this.answered, waiting });
  }

  /** Waits out the delay, if there is one, and returns it. */
  wait(random: () => number = almostOne): number {
    const move = this.crashes.nextAttempt(this.nowMs, random);
    if (move.kind === "at-once") return 0;
    this.nowMs += move.delayMs;
    return move.delayMs;
  }

  get move(): ReturnType<CrashRecord["nextAttempt"]> {
    return this.crashes.nextAttempt(this.nowMs, almostOne);
  }
}

describe("CrashRecord", () => {
  test("a link without strikes moves at once to any worker", () => {
    expect(new Life().move).toEqual(AT_ONCE);
    expect(new CrashRecord().suspicion).toBe(0);
  });

  test("deaths within the budget cause no delay, but suspicion", () => {
    const life = new Life();
    for (let death = 1; death <= BUDGET; death++) {
      life.die();
      expect(life.move).toEqual(AT_ONCE);
      expect(life.crashes.suspicion).toBe(death);
      expect(life.crashes.stalledReason(life.nowMs)).toBeUndefined();
    }
  });

  test("beyond the budget the delay doubles up to its limit and stays there", () => {
    const life = new Life();
    const delays = [...Array(14)].map(() => {
      life.die();
      return Math.round(life.wait());
    });
    expect(delays).toEqual([
      ...[0, 0, 0],
      ...[200, 400, 800, 1600, 3200, 6400, 12_800, 25_600],
      ...[MAX_DELAY_MS, MAX_DELAY_MS, MAX_DELAY_MS],
    ]);
  });

  test("the delay is reduced by up to half at random", () => {
    const life = new Life();
    for (let death = 0; death <= BUDGET; death++) life.die();
    expect(life.wait(() => 0)).toBe(MIN_DELAY_MS / 2);
  });

  test("the delay is drawn once, has the reason, and is followed by an attempt away from innocent links", () => {
    const life = new Life();
    for (let death = 0; death <= BUDGET; death++) {
      life.die();
      life.nowMs += 900;
    }
    life.nowMs -= 900;
    const reason =
      "its workers die: 4 in the last 3 s, last: worker 4712 was killed by SIGABRT; next attempt in 200 ms";
    expect(life.move).toMatchObject({ kind: "later", placement: "suspects-only", reason });
    expect(life.crashes.stalledReason(life.nowMs)).toBe(reason);
    life.nowMs += 150;
    expect(life.crashes.nextAttempt(life.nowMs, () => 0)).toMatchObject({ kind: "later" });
    expect(life.crashes.stalledReason(life.nowMs)).toMatch(/next attempt in \d\d ms$/);
    life.nowMs += 50;
    expect(life.move).toEqual({ kind: "at-once", placement: "suspects-only" });
    expect(life.crashes.stalledReason(life.nowMs)).toBeUndefined();
  });

  test("long delays are reported in seconds", () => {
    const life = new Life();
    for (let death = 0; death < 8; death++) life.die();
    expect(life.move).toMatchObject({
      reason: expect.stringMatching(/^its workers die: 8 in the last 1 s, .* 3\.2 s$/),
    });
  });

  test("endless kills do not stall a link that answers in between", () => {
    const life = new Life();
    for (let kill = 0; kill < 1000; kill++) {
      life.nowMs += 300;
      life.answered += 1;
      life.die({ role: kill % 2 === 0 ? "busy" : "alone" });
      expect(life.move).toEqual(AT_ONCE);
      expect(life.crashes.suspicion).toBeLessThanOrEqual(2);
    }
  });

  test("an answer counter that wraps is an answer", () => {
    const life = new Life();
    life.answered = 2 ** 32 - 1;
    life.die();
    life.answered = 0;
    life.die();
    expect(life.crashes.suspicion).toBe(1.5);
  });

  test("good service clears the record", () => {
    const life = new Life();
    for (let death = 0; death < 10; death++) life.die();
    life.wait();
    life.serve(PROBATION_MS - TICK_MS);
    expect(life.crashes.suspicion).toBeGreaterThan(0);
    life.serve(2 * TICK_MS);
    expect(life.crashes.suspicion).toBe(0);
    life.die();
    expect(life.move).toEqual(AT_ONCE);
  });

  test("cleared deaths are not counted any more", () => {
    const life = new Life();
    for (let death = 0; death < 10; death++) life.die();
    life.serve(PROBATION_MS + TICK_MS);
    for (let death = 0; death <= BUDGET; death++) life.die();
    expect(life.move).toMatchObject({
      reason: expect.stringMatching(/^its workers die: 4 in the last 1 s, /),
    });
  });

  test("good service counts from the last death on, and only while a worker has the link", () => {
    const life = new Life();
    for (let death = 0; death < 10; death++) life.die();
    life.serve(PROBATION_MS - TICK_MS);
    life.die();
    const suspicion = life.crashes.suspicion;
    life.nowMs += 2 * TICK_MS;
    life.look();
    expect(life.crashes.suspicion).toBe(suspicion);
    life.serve(2 * TICK_MS);
    expect(life.crashes.suspicion).toBeGreaterThan(suspicion - 1);
  });

  test("service under load is good while it answers", () => {
    const life = new Life();
    for (let death = 0; death < 10; death++) life.die();
    life.serve(PROBATION_MS + TICK_MS, true, () => {
      life.answered += 3;
    });
    expect(life.crashes.suspicion).toBe(0);
  });

  test("waiting requests without progress are not service", () => {
    const life = new Life();
    for (let death = 0; death < 4; death++) life.die();
    life.serve(60_000, true);
    expect(life.crashes.suspicion).toBe(4);
  });

  test("time in which the manager did not run is not service", () => {
    const life = new Life();
    for (let death = 0; death < 4; death++) life.die();
    life.look();
    life.nowMs += 3_600_000;
    life.look();
    expect(life.crashes.suspicion).toBeGreaterThan(3);
  });

  test("rare deaths do not add up", () => {
    const life = new Life();
    for (let death = 0; death < 100; death++) {
      life.die();
      expect(life.move).toEqual(AT_ONCE);
      life.serve(4000);
    }
  });

  test("a link that was idle is suspected less and tried again sooner", () => {
    const life = new Life();
    const delays = [...Array(40)].map(() => {
      life.die({ role: "alone", idle: true });
      return life.wait();
    });
    expect(delays.slice(0, 2 * BUDGET)).toEqual(Array(2 * BUDGET).fill(0));
    expect(Math.max(...delays)).toBeLessThanOrEqual(MAX_IDLE_DELAY_MS);
    expect(delays.at(-1)).toBeGreaterThan(MAX_IDLE_DELAY_MS / 2);
  });

  test("bystanders never wait and are never suspected", () => {
    const life = new Life();
    for (let death = 0; death < 50; death++) life.die({ role: "bystander", hung: true });
    expect(life.move).toEqual(AT_ONCE);
    expect(life.crashes.suspicion).toBe(0);
    expect(life.crashes.hangsWithoutProgress).toBe(0);
  });

  test("links at unexplained deaths are suspected, less than any with a strike, and never wait", () => {
    const life = new Life();
    const suspicions = [...Array(10)].map(() => {
      life.die({ role: "unexplained" });
      expect(life.move).toEqual(AT_ONCE);
      return life.crashes.suspicion;
    });
    expect(suspicions[0]).toBe(0);
    expect(suspicions[1]).toBeGreaterThan(0);
    expect([...suspicions].sort((a, b) => a - b)).toEqual(suspicions);
    expect(Math.max(...suspicions)).toBeLessThan(1);
    life.serve(PROBATION_MS + TICK_MS);
    expect(life.crashes.suspicion).toBe(0);
  });

  test("an answer between unexplained deaths clears the link that gave it", () => {
    const life = new Life();
    for (let death = 0; death < 10; death++) {
      life.answered += 1;
      life.die({ role: "unexplained" });
      expect(life.crashes.suspicion).toBe(0);
    }
  });

  test("a link in which a worker hung must be alone until it has served well; one beside it need not", () => {
    const [life, beside] = [new Life(), new Life()];
    life.die({ hung: true });
    beside.die({ hung: true, role: "bystander" });
    expect([life.crashes.mustBeAlone, beside.crashes.mustBeAlone]).toEqual([true, false]);
    expect(life.move).toEqual({ kind: "at-once", placement: "alone" });
    for (let death = 0; death < BUDGET; death++) life.die({ hung: true });
    expect(life.move).toMatchObject({ kind: "later", placement: "alone" });
    life.wait();
    life.serve(PROBATION_MS + TICK_MS);
    expect(life.crashes.mustBeAlone).toBe(false);
    expect(life.move).toEqual(AT_ONCE);
  });

  test("hangs add up until an answer; those of an idle link do not", () => {
    const life = new Life();
    life.die({ hung: true });
    life.die({ hung: true });
    expect(life.crashes.hangsWithoutProgress).toBe(2);
    life.die({ hung: true, idle: true, role: "alone" });
    expect(life.crashes.hangsWithoutProgress).toBe(2);
    life.look(true);
    expect(life.crashes.hangsWithoutProgress).toBe(2);
    life.answered += 1;
    life.look(true);
    expect(life.crashes.hangsWithoutProgress).toBe(0);
    life.die({ hung: true });
    expect(life.crashes.hangsWithoutProgress).toBe(1);
  });
});

test.each<[Role, boolean, boolean[]]>([
  ["busy", true, [true]],
  ["busy", true, [true, false, false]],
  ["alone", false, [false]],
  ["bystander", false, [false, true]],
  ["unexplained", false, [false, false]],
])("roleOf: %s when busy is %s among %j", (role, busy, all) => {
  expect(
    roleOf(
      { busy },
      all.map((each) => ({ busy: each })),
    ),
  ).toBe(role);
});
