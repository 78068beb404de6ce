/**
 * Mount option lists and helper calls of any shape: nothing is lost, doubled, reordered or mixed up between us and
 * mount(8), and whatever is refused is refused as wrong input.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { readHelperCall } from "../../src/cli/mount/mount-call.ts";
import { readMountOptions, splitOptions } from "../../src/cli/mount/mount-options.ts";
import { ErofsNbdError } from "../../src/errors.ts";

/** No comma, quote or backslash outside of quotes. */
const plain = fc.stringMatching(/^[a-z_.=:/ é-]{1,12}$/);
const quoted = fc.stringMatching(/^[a-z,:=]{0,12}$/).map((text) => `context="${text}"`);
const escaped = fc.stringMatching(/^[a-z]{1,5}\\,[a-z]{1,5}$/);
const item = fc.oneof(plain, quoted, escaped);
const theirs = item.filter(
  (text) => !/^(nbd\.|(ro|rw|defaults|nofail)(=|$))/.test(text) && !/^(ro|rw|defaults|nofail)$/.test(text),
);
const ours = fc.constantFrom(
  "nbd.connections=2",
  "nbd.timeout=never",
  "nbd.dead-timeout=0",
  "nbd.device=nbd3",
  "nbd.run-dir=/x",
);
const implied = fc.constantFrom("ro", "rw", "defaults", "nofail");

test("joined items come apart again as they were", () => {
  fc.assert(
    fc.property(fc.array(item), (items) => {
      expect(splitOptions(items.join(","))).toEqual(items);
    }),
  );
});

test("mount(8) gets all of theirs and nothing of ours, in order", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(theirs, ours, implied)), (items) => {
      const { forMount, ignored } = readMountOptions(items.join(","), false);
      const wanted = items.filter((one) => !/^(nbd\..*|ro|rw|defaults|nofail)$/.test(one));
      expect(forMount).toEqual(["ro", ...wanted]);
      expect(ignored).toEqual([]);
    }),
  );
});

test("any text is read or refused as wrong input; sloppily, only bad values of ours are", () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'nbd.=,"\\ox1 ') }), fc.boolean(), (text, isSloppy) => {
      try {
        const { forMount, ignored } = readMountOptions(text, isSloppy);
        for (const one of forMount) expect(one.startsWith("nbd.")).toBe(false);
        if (!isSloppy) expect(ignored).toEqual([]);
      } catch (error) {
        expect(error).toBeInstanceOf(ErofsNbdError);
        expect(error).toMatchObject({ code: "ERR_BAD_ARGUMENT" });
      }
    }),
  );
});

/** A flag with its value in one of the spellings that getopt allows. */
const flags = fc.shuffledSubarray(["s", "f", "n", "v"]).chain((letters) =>
  fc.constantFrom(
    letters.map((letter) => [`-${letter}`]),
    letters.length === 0 ? [] : [[`-${letters.join("")}`]],
  ),
);
const valued = fc.constantFrom<string[][]>(
  [
    ["-o", "noatime,nbd.connections=2"],
    ["-t", "erofs.nbd"],
  ],
  [["-onoatime"], ["-o", "nbd.connections=2"], ["-terofs.nbd"]],
  [["--options=noatime,nbd.connections=2"], ["--type", "erofs.nbd"]],
);

test("flags mean the same in any order, between any words", () => {
  fc.assert(
    fc.property(flags, valued, fc.infiniteStream(fc.nat()), (first, second, numbers) => {
      // Image before directory and option lists in their order; everything else anywhere.
      const groups: string[][] = [];
      const queues = [[["/i"], ["/d"]], second, ...first.map((group) => [group])].map((queue) => [...queue]);
      while (queues.length > 0) {
        const at = (numbers.next().value as number) % queues.length;
        const next = queues[at]?.shift();
        if (next === undefined) queues.splice(at, 1);
        else groups.push(next);
      }
      const given = first.flat().join("");
      expect(readHelperCall(groups.flat())).toMatchObject({
        wants: "mount",
        isVerbose: given.includes("v"),
        request: {
          image: "/i",
          directory: "/d",
          isFake: given.includes("f"),
          options: { forMount: ["ro", "noatime"], device: { connections: 2 } },
        },
      });
    }),
  );
});
