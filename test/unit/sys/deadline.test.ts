/** deadline.ts: whatever comes first ends the waiting, a garbage collection does not make it endless. */
import { getEventListeners } from "node:events";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { withDeadline } from "../../../src/sys/deadline.ts";
import { until } from "../../helpers/until.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

const NEVER = new AbortController().signal;

/** Waits for the signal and returns its reason. */
const reasonOf = (signal: AbortSignal): Promise<unknown> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener("abort", () => resolve(signal.reason));
  });

test("the outer signal's reason is handed on", async () => {
  const outer = new AbortController();
  const waited = withDeadline(60_000, outer.signal, reasonOf);
  outer.abort("enough");
  expect(await waited).toBe("enough");
});

test("an outer signal that was aborted before", async () => {
  expect(await withDeadline(60_000, AbortSignal.abort("before"), reasonOf)).toBe("before");
});

test("the time alone, told as such", async () => {
  expect(await withDeadline(1, NEVER, reasonOf)).toMatchObject({ name: "TimeoutError" });
});

test("when the waiting is over, so is what it left behind; results and errors pass through", async () => {
  let left: AbortSignal | undefined;
  expect(
    await withDeadline(60_000, NEVER, async (signal) => {
      left = signal;
      return 7;
    }),
  ).toBe(7);
  expect(left?.aborted).toBe(true);
  const failing = withDeadline(60_000, NEVER, async () => {
    throw new Error("no");
  });
  await expect(failing).rejects.toThrow("no");
});

test("it leaves neither listener nor timer with the outer signal", async () => {
  const outer = new AbortController();
  for (let count = 0; count < 50; count += 1) await withDeadline(60_000, outer.signal, async () => {});
  expect(getEventListeners(outer.signal, "abort")).toEqual([]);
});

test("the time comes although nobody holds the signal and garbage is collected meanwhile", async () => {
  let fired = 0;
  for (let count = 0; count < 8; count += 1)
    void withDeadline(50, NEVER, reasonOf).then(() => {
      fired += 1;
    });
  collectGarbage();
  await new Promise((resolve) => setImmediate(resolve));
  collectGarbage();
  await until("all of them", () => fired === 8);
});
