/**
 * The files that `npm pack` puts into the tarball: those that the programs, the library and man(1) need, and no others.
 * Nothing is packed, and nothing but the manual pages is built.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { PAGE_SCRIPT } from "../../../tools/page-script.mjs";
import { PROGRAMS } from "../../../tools/programs.mjs";
import { packTarball } from "./tarball.ts";

interface Manifest {
  readonly bin: Record<string, string>;
  readonly man: readonly string[];
  readonly exports: Record<string, string | { readonly types: string; readonly default: string }>;
}

const manifest = JSON.parse(readFileSync("package.json", "utf8")) as Manifest;
/** Programs that managers, units and guardians of an earlier version start after an upgrade. */
const FORMER_PROGRAMS = ["dist/src/cli/main.js", "dist/src/cli/mount-helper.js", "dist/src/worker/main.js"];
let paths: readonly string[] = [];

beforeAll(() => {
  execFileSync(process.execPath, ["man/write.mjs"]);
  paths = packTarball().files;
});

describe("the tarball", () => {
  test("has only programs, types, documents and examples", () => {
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

  test("has no output of a deleted source file (remove dist/ and build again if this fails)", () => {
    const bundles = [PAGE_SCRIPT, ...PROGRAMS.flatMap(({ file }) => [`dist/${file}`, `dist/${file}.map`])];
    const stale = paths.filter(
      (path) =>
        /^dist\/(src|netlink)\//.test(path) &&
        !bundles.includes(path) &&
        !existsSync(path.slice(5).replace(/(\.d)?\.[jt]s$/, ".ts")),
    );
    expect(stale).toEqual([]);
  });

  test("has the bundles, source maps of this project's code alone, and the licences of bundled packages", () => {
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

  test("has the programs, each with its interpreter line, and the manual pages", () => {
    expect(Object.keys(manifest.bin)).toEqual(expect.arrayContaining(["erofs-nbd", "mount.erofs.nbd"]));
    for (const path of Object.values(manifest.bin)) {
      expect(paths).toContain(path);
      expect(readFileSync(path, "utf8")).toMatch(/^#!\/usr\/bin\/env node\n/);
    }
    for (const path of manifest.man) expect(paths).toContain(path);
    expect(manifest.man).toHaveLength(2);
  });

  test("has every file that the programs and the two entries import, code and types", () => {
    const entries = Object.values(manifest.exports).filter((entry) => typeof entry !== "string");
    expect(entries).toHaveLength(2);
    const code = reachable([
      ...Object.values(manifest.bin),
      ...FORMER_PROGRAMS,
      ...entries.map((entry) => entry.default.slice(2)),
    ]);
    const types = reachable(entries.map((entry) => entry.types.slice(2)));
    expect(code.length).toBeGreaterThan(100);
    expect(types.length).toBeGreaterThan(20);
    expect([...code, ...types].filter((path) => !paths.includes(path))).toEqual([]);
    // A type of zod in a declaration would make every TypeScript program load zod, in this version.
    const zodTypes = types.filter((path) => /from "zod"/.test(readFileSync(path, "utf8")));
    expect(zodTypes).toEqual([]);
  });
});

/** The entries and all files that they import or start, directly or indirectly. */
function reachable(entries: readonly string[]): string[] {
  const found = new Set(entries);
  // Iteration includes entries that are added to the set meanwhile.
  for (const path of found) for (const one of importsOf(path)) found.add(one);
  return [...found];
}

/** The project's files that a file imports: declarations for a declaration file, code otherwise. */
function importsOf(path: string): string[] {
  // Comments are removed because examples in them import the reader's files.
  const text = readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
  const named = [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.{1,2}\/[^"]+)"/g)].map(
    (match) => match[1] ?? "",
  );
  // Programs that are started, and files that a bundle loads.
  const linked = [...text.matchAll(/"(\.{1,2}\/[^"]+\.c?js)"/g)].map((match) => match[1] ?? "");
  return [...named, ...linked].map((wanted) => {
    const target = join(dirname(path), wanted);
    return path.endsWith(".d.ts") ? target.replace(/\.[jt]s$/, ".d.ts") : target;
  });
}
