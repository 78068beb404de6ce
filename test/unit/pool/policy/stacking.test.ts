/** policy/stacking.ts: which links wait for each other, and how many workers that takes. */
import { describe, expect, test } from "vitest";
import { entangledWith, levelsOf, type StackedLink } from "../../../../src/pool/policy/stacking.ts";

const link = (deviceIndex: number | undefined, ...below: number[]): StackedLink => ({
  request: { deviceIndex: () => deviceIndex, below },
});

describe("links of which one waits for the other", () => {
  const file = link(0);
  const onFile = link(1, 0);
  const onThat = link(2, 1);
  const other = link(3);
  const attaching = link(undefined, 1);
  const all = [file, onFile, onThat, other, attaching];

  test.each([
    ["the lowest", file, [onFile, onThat, attaching]],
    ["one in the middle", onFile, [file, onThat, attaching]],
    ["the highest, by all that it lies on", onThat, [file, onFile]],
    ["one without a relation", other, []],
    ["one that is being attached, and has no index", attaching, [file, onFile]],
  ])("%s", (_, one, expected) => {
    expect(all.filter(entangledWith(one, all))).toEqual(expected);
    expect(all.filter(entangledWith(one, new Set(all)))).toEqual(expected);
  });

  test("the new link need not be among the others", () => {
    expect([file, other].filter(entangledWith(onFile, [file, other]))).toEqual([file]);
  });

  test("two links of one device do not wait for each other", () => {
    const second = link(1, 0);
    expect([onFile, second].filter(entangledWith(onFile, [file, onFile, second]))).toEqual([]);
  });

  test("a circle, which no kernel has, ends", () => {
    const circle = [link(5, 6), link(6, 5)];
    expect(circle.filter(entangledWith(circle[0] as StackedLink, circle))).toContain(circle[1]);
  });
});

test.each([
  ["no link", [], 1],
  ["links of files", [link(0), link(1)], 1],
  ["several on one", [link(0), link(1, 0), link(2, 0)], 2],
  ["one on another on a third", [link(0), link(1, 0), link(2, 1)], 3],
  ["one on several", [link(0), link(1), link(2, 0, 1)], 3],
])("a read of %s takes so many workers", (_, links, levels) => {
  expect(levelsOf(links)).toBe(levels);
});
