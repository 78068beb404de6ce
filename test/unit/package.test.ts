/**
 * What `npm pack` would put into the tarball: all that the programs, the library and man(1) need, and nothing else. Packs
 * nothing and builds nothing but the pages.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { PROGRAMS } from "../../tools/programs.mjs";

interface Manifest {
  readonly bin: Record<string, string>;
  readonly man: readonly string[];
  readonly exports: Record<string, { readonly types: string; readonly default: string }>;
}

const manifest = JSON.parse(readFileSync("package.json", "utf8")) as Manifest;
/** What managers, units and guardians of a former version start: an upgrade puts this version in their place. */
const FORMER_PROGRAMS = ["dist/src/cli/main.js", "dist/src/cli/mount-helper.js", "dist/src/worker/main.js"];
let paths: readonly string[] = [];

beforeAll(() => {
  execFileSync(process.execPath, ["man/write.mjs"]);
  // Scripts would build into dist/, which other tests run from.
  const words = ["pack", "--dry-run", "--json", "--ignore-scripts"];
  const said = execFileSync("npm", words, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const [tarball] = JSON.parse(said) as [{ files: readonly { path: string }[] }];
  paths = tarball.files.map(({ path }) => path);
});

describe("the tarball", () => {
  test("has only what is run, typed or read", () => {
    const odd = paths.filter(
      (path) =>
        !/^(package\.json|[A-Z]+\.md|LICENSE|docs\/[a-z-]+\.md|docs\/pictures\/[a-z-]+\.(svg|png))$/.test(
          path,
        ) &&
        !/^dist\/(src|netlink)\/[\w./-]+(\.js|\.cjs|\.cjs\.map|\.d\.ts)$/.test(path) &&
        path !== "dist/THIRD-PARTY.txt" &&
        !/^dist\/man\/[\w.-]+\.8$/.test(path) &&
        !/^examples\/[\w-]+\.mjs$/.test(path),
    );
    expect(odd).toEqual([]);
  });

  test("has the examples that the documents name, and what they import", () => {
    const examples = readdirSync("examples").filter((name) => name.endsWith(".mjs"));
    expect(examples.length).toBeGreaterThan(3);
    for (const name of examples) expect(paths).toContain(`examples/${name}`);
    const wanted = examples.flatMap((name) => importsOf(`examples/${name}`));
    expect(wanted.filter((path) => !paths.includes(path))).toEqual([]);
  });

  test("has no leftover of a source that is gone (else remove dist/ and build again)", () => {
    const bundles = PROGRAMS.flatMap(({ file }) => [`dist/${file}`, `dist/${file}.map`]);
    const orphans = paths.filter(
      (path) =>
        /^dist\/(src|netlink)\//.test(path) &&
        !bundles.includes(path) &&
        !existsSync(path.slice(5).replace(/(\.d)?\.[jt]s$/, ".ts")),
    );
    expect(orphans).toEqual([]);
  });

  test("has the bundles, maps that lead to our own sources alone, and the licences of what else is in them", () => {
    const licences = readFileSync("dist/THIRD-PARTY.txt", "utf8");
    for (const name of ["commander", "zod", "pino", "eventemitter3"])
      expect(licences).toMatch(new RegExp(`^${name} [\\d.]+ \\(MIT\\)$`, "m"));
    for (const { file } of PROGRAMS) {
      expect(paths).toContain(`dist/${file}`);
      expect(paths).toContain(`dist/${file}.map`);
      const { sources } = JSON.parse(readFileSync(`dist/${file}.map`, "utf8")) as { sources: string[] };
      expect(sources.filter((path) => !/^(\.\.\/)+(src|netlink)\//.test(path))).toEqual([]);
    }
  });

  test("has the programs, executable by their first line, and the pages", () => {
    expect(Object.keys(manifest.bin)).toEqual(expect.arrayContaining(["erofs-nbd", "mount.erofs.nbd"]));
    for (const path of Object.values(manifest.bin)) {
      expect(paths).toContain(path);
      expect(readFileSync(path, "utf8")).toMatch(/^#!\/usr\/bin\/env node\n/);
    }
    for (const path of manifest.man) expect(paths).toContain(path);
    expect(manifest.man).toHaveLength(2);
  });

  test("has what can be reached from the programs and the two entries, code and types", () => {
    const entries = Object.values(manifest.exports);
    const code = reachable([
      ...Object.values(manifest.bin),
      ...FORMER_PROGRAMS,
      ...entries.map((entry) => entry.default.slice(2)),
    ]);
    const types = reachable(entries.map((entry) => entry.types.slice(2)));
    expect(code.length).toBeGreaterThan(100);
    expect(types.length).toBeGreaterThan(20);
    expect([...code, ...types].filter((path) => !paths.includes(path))).toEqual([]);
    // Types that name a type of zod would make every TypeScript program load it, and this version of it.
    const zodTypes = types.filter((path) => /from "zod"/.test(readFileSync(path, "utf8")));
    expect(zodTypes).toEqual([]);
  });
});

/** Files that are imported, or run, by these, by what those import, and so on; and these. */
function reachable(entries: readonly string[]): string[] {
  const found = new Set(entries);
  // A set that grows is gone through to its end.
  for (const path of found) for (const one of importsOf(path)) found.add(one);
  return [...found];
}

/** Files of ours that a file imports, as code or, if it holds types, as types. */
function importsOf(path: string): string[] {
  // Without comments: examples import what a reader has.
  const text = readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
  const named = [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.{1,2}\/[^"]+)"/g)].map(
    (match) => match[1] ?? "",
  );
  // What is run, and what a bundle loads.
  const linked = [...text.matchAll(/"(\.{1,2}\/[^"]+\.c?js)"/g)].map((match) => match[1] ?? "");
  return [...named, ...linked].map((wanted) => {
    const target = join(dirname(path), wanted);
    return path.endsWith(".d.ts") ? target.replace(/\.[jt]s$/, ".d.ts") : target;
  });
}
