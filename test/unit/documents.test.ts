/**
 * The documents of the repository: every file they name exists, the README stays one page, and lines and quotes keep to
 * the rules of the house.
 *
 * A path in backticks is a whole path, or the end of one: `serve-loop.ts`, `serving/serve-loop.ts`. Globs match at
 * least one file. Paths of built files (dist/, .js, .cjs) and of the machine (/run, ./x) are not looked at.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";

const MAX_COLUMNS = 120;
const MAX_README_LINES = 130;
const FOLDERS = ["src", "netlink", "test", "tools", "examples", "man", "docs", ".ci"];
const DOCUMENTS = [
  ...readdirSync(".").filter((name) => name.endsWith(".md")),
  ...readdirSync("docs")
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

/** Files as paths from the root; folders end in a slash. */
const FILES: readonly string[] = [
  ...readdirSync(".", { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => name),
  ...FOLDERS.flatMap((folder) =>
    readdirSync(folder, { recursive: true, withFileTypes: true }).map(
      (entry) => `${join(entry.parentPath, entry.name)}${entry.isDirectory() ? "/" : ""}`,
    ),
  ),
  ...FOLDERS.map((folder) => `${folder}/`),
];

/** What is not code: lines of fenced blocks become empty, so that numbers of lines stay. */
function proseOf(path: string): string[] {
  let isCode = false;
  return readFileSync(path, "utf8")
    .split("\n")
    .map((line) => {
      if (line.startsWith("```")) {
        isCode = !isCode;
        return "";
      }
      return isCode ? "" : line;
    });
}

/** Paths in backticks. */
function pathsIn(prose: string): string[] {
  const spans = [...prose.matchAll(/`([^`]+)`/g)].map(([, span = ""]) => span);
  return spans.filter((span) => {
    if (!/^[\w.*-]+(\/[\w.*-]+)*\/?$/.test(span)) return false;
    if (span.startsWith("dist/") || span.startsWith("./")) return false;
    return (
      /\w\.(ts|mts|mjs|sh|md|c)$/.test(span) ||
      FOLDERS.includes(span.split("/")[0] ?? "") ||
      /^[\w-]+\/$/.test(span)
    );
  });
}

function exists(path: string): boolean {
  const pattern = path.replace(/[.+]/g, "\\$&").replace(/\*/g, "[^/]*").replace(/\/$/, "");
  const end = new RegExp(`(^|/)${pattern}/?$`);
  return FILES.some((file) => end.test(file));
}

function linksIn(prose: string): string[] {
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = ""]) => target.replace(/#.*$/, ""))
    .filter((target) => target !== "" && !/^[a-z]+:/.test(target));
}

test("there are documents to look at", () => {
  expect(DOCUMENTS).toEqual(expect.arrayContaining(["README.md", "ARCHITECTURE.md", "SECURITY.md"]));
  expect(DOCUMENTS.length).toBeGreaterThan(10);
});

test("the README is one page", () => {
  expect(readFileSync("README.md", "utf8").trimEnd().split("\n").length).toBeLessThanOrEqual(
    MAX_README_LINES,
  );
});

test("paths are told from other words in backticks", () => {
  const words =
    "`src/errors.ts` `no-such-file.ts` `--json` `nbd0` `/run/erofs-nbd` `src/no-such-folder/` `read`";
  expect(pathsIn(words)).toEqual(["src/errors.ts", "no-such-file.ts", "src/no-such-folder/"]);
  expect(pathsIn(words).map(exists)).toEqual([true, false, false]);
  expect([exists("journal.ts"), exists("serving/pump.ts"), exists("test/property/serve*.test.ts")]).toEqual([
    true,
    true,
    true,
  ]);
});

describe.each(DOCUMENTS)("%s", (path) => {
  const lines = proseOf(path);

  test("names only files that exist", () => {
    expect(pathsIn(lines.join("\n")).filter((name) => !exists(name))).toEqual([]);
  });

  test("links only to files that exist", () => {
    const targets = linksIn(lines.join("\n"));
    expect(targets.filter((target) => !existsSync(join(dirname(path), target)))).toEqual([]);
  });

  test("has lines of at most 120 columns outside tables and code", () => {
    const long = lines.flatMap((line, at) =>
      line.length > MAX_COLUMNS && !line.startsWith("|") ? [`${path}:${at + 1}: ${line}`] : [],
    );
    expect(long).toEqual([]);
  });

  test("quotes with straight quotes or backticks", () => {
    expect(lines.filter((line) => /[«»]/.test(line))).toEqual([]);
  });
});
