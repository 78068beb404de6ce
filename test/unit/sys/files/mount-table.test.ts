/** mount-table.ts: where a path leads, by the text of mountinfo alone. */
import { closeSync, openSync, realpathSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { MountTable } from "../../../../src/sys/files/mount-table.ts";

/** One line of mountinfo: `ID PARENT DEVICE PATH TYPE`. */
const table = (...lines: readonly string[]): MountTable =>
  new MountTable(
    lines
      .map((line) => {
        const [id, parent, device, path, type = "ext4"] = line.split(" ");
        return `${id} ${parent} ${device} / ${path} rw,relatime shared:1 - ${type} source rw`;
      })
      .join("\n"),
  );
const ids = (mounts: MountTable, ...paths: readonly string[]): (number | undefined)[] =>
  paths.map((path) => mounts.at(path)?.id);

describe("a path leads to", () => {
  test("the mount that is deepest on its way, by whole names", () => {
    const mounts = table("1 0 8:1 /", "2 1 8:2 /srv", "3 2 8:3 /srv/images");
    expect(
      ids(mounts, "/", "/etc/x", "/srv", "/srv/x", "/srv/images", "/srv/images/a", "/srv/images2/a"),
    ).toEqual([1, 1, 2, 2, 3, 3, 2]);
  });

  test("what was mounted last at the same place", () => {
    const mounts = table("1 0 8:1 /", "2 1 8:2 /mnt", "3 2 8:3 /mnt", "4 3 8:4 /mnt");
    expect(ids(mounts, "/mnt/a")).toEqual([4]);
  });

  test("no mount below a place that another one has covered since", () => {
    const mounts = table("1 0 8:1 /", "2 1 8:2 /srv/images", "3 1 8:3 /srv");
    expect(ids(mounts, "/srv/images/a")).toEqual([3]);
    expect(mounts.uncovered("8:2")).toEqual([]);
  });

  test("a mount whose parent is not in sight: the process has another root", () => {
    expect(ids(table("5 3 8:1 /", "6 5 8:2 /a"), "/a/b", "/b")).toEqual([6, 5]);
    expect(ids(table("6 5 8:2 /a"), "/a/b", "/b")).toEqual([6, undefined]);
  });

  test("one with blanks, backslashes and newlines in its name", () => {
    const mounts = table("1 0 8:1 /", "2 1 8:2 /a\\040b\\134c\\012d");
    expect(ids(mounts, "/a b\\c\nd/e")).toEqual([2]);
  });
});

test("uncovered mounts of a file system are those that paths lead to, the shortest first", () => {
  const mounts = table(
    "1 0 8:1 /",
    "2 1 8:1 /a/long/way",
    "3 1 8:1 /covered",
    "4 3 43:0 /covered",
    "5 1 8:2 /b",
  );
  expect(mounts.uncovered("8:1").map(({ path }) => path)).toEqual(["/", "/a/long/way"]);
  expect(mounts.uncovered("8:9")).toEqual([]);
});

test("of this process: a path of an open file leads to the file's mount", () => {
  const path = realpathSync(process.execPath);
  const fd = openSync(path, "r");
  try {
    const mounts = new MountTable();
    expect(mounts.ofFile(fd)).toBeDefined();
    expect(mounts.at(path)).toEqual(mounts.ofFile(fd));
    expect(mounts.ofFile(2 ** 30)).toBeUndefined();
  } finally {
    closeSync(fd);
  }
});
