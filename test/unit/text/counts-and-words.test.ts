/** Counts with their nouns, sizes, and words of a shell. */
import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { nounFor, plural } from "../../../src/text/plural.ts";
import { shellWord } from "../../../src/text/shell-word.ts";
import { formatSize } from "../../../src/text/sizes.ts";

test("a noun follows its count", () => {
  expect([0, 1, 2].map((count) => plural(count, "read"))).toEqual(["0 reads", "1 read", "2 reads"]);
  expect(plural(2, "entry", "entries")).toBe("2 entries");
  expect([nounFor(1, "device"), nounFor(3, "device")]).toEqual(["device", "devices"]);
});

test("a size has one decimal of the largest unit that it fills", () => {
  expect([0, 1023, 1024, 113_045_504, 2 ** 60].map(formatSize)).toEqual([
    "0 B",
    "1023 B",
    "1.0 KiB",
    "107.8 MiB",
    "1.0 EiB",
  ]);
});

test("a shell reads each word as it was", () => {
  const words = ["/usr/bin/node", "a b", "it's", "$HOME", "`x`", "", "--key=value", 'say "x"', "\\"];
  const { stdout } = spawnSync("sh", ["-c", `printf '%s\\n' ${words.map(shellWord).join(" ")}`], {
    encoding: "utf8",
  });
  expect(stdout.split("\n").slice(0, -1)).toEqual(words);
  expect(shellWord("/usr/bin/node")).toBe("/usr/bin/node");
});
