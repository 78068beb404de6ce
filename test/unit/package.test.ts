/**
 * What `npm pack` would put into the tarball: all that the programs, the library and man(1) need, and nothing else. Packs
 * nothing and builds nothing but the pages.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";

interface Manifest {
  readonly bin: Record<string, string>;
  readonly man: readonly string[];
  readonly exports: Record<string, { readonly types: string; readonly default: string }>;
}

const manifest = JSON.parse(readFileSync("package.json", "utf8")) as Manifest;
let paths: readonly string[] = [];

beforeAll(() => {
  execFileSync(process.execPath, ["man/write.mjs"]);
  // Scripts would build into dist/, which other tests run from.
  const words = ["pack", "--dry-run", "--json", "--ignore-scripts"];
  const said = execFileSync("npm", words, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const [tarball] = JSON.parse(said) as [{ files: readonly { path: string }[] }];
  paths = tarball.files.map(({ path }) => path);
}, 60_000);

describe("the tarball", () => {
  test("has only what is run, typed or read", () => {
    const odd = paths.filter(
      (path) =>
        !/^(package\.json|README\.md|ARCHITECTURE\.md|SECURITY\.md|LICENSE)$/.test(path) &&
        !/^dist\/(src|netlink)\/[\w./-]+(\.js|\.d\.ts)$/.test(path) &&
        !/^dist\/man\/[\w.-]+\.8$/.test(path) &&
        !/^examples\/[\w-]+\.mjs$/.test(path),
    );
    expect(odd).toEqual([]);
  });

  test("has the examples that the README speaks of, and what they import", () => {
    const examples = readdirSync("examples").filter((name) => name.endsWith(".mjs"));
    expect(examples.length).toBeGreaterThan(3);
    for (const name of examples) expect(paths).toContain(`examples/${name}`);
    const wanted = examples.flatMap((name) => importsOf(`examples/${name}`));
    expect(wanted.filter((path) => !paths.includes(path))).toEqual([]);
  });

  test("has no leftover of a source that is gone (else remove dist/ and build again)", () => {
    const orphans = paths.filter(
      (path) =>
        /^dist\/(src|netlink)\//.test(path) && !existsSync(path.slice(5).replace(/(\.d)?\.[jt]s$/, ".ts")),
    );
    expect(orphans).toEqual([]);
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

  test("has everything that its files import, code and types", () => {
    for (const { types, default: code } of Object.values(manifest.exports)) {
      expect(paths).toContain(types.slice(2));
      expect(paths).toContain(code.slice(2));
    }
    const wanted = paths.filter((path) => path.endsWith(".js")).flatMap(importsOf);
    const types = Object.values(manifest.exports).map((entry) => entry.types.slice(2));
    for (const path of types) types.push(...importsOf(path).filter((one) => !types.includes(one)));
    expect(types.length).toBeGreaterThan(20);
    const missing = [...wanted, ...types].filter((path) => !paths.includes(path));
    expect(missing).toEqual([]);
  });
});

/** Files of ours that a file imports, as code or, if it holds types, as types. */
function importsOf(path: string): string[] {
  // Without comments: examples import what a reader has.
  const text = readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
  const named = [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.{1,2}\/[^"]+)"/g)].map(
    (match) => match[1] ?? "",
  );
  const linked = [...text.matchAll(/new URL\("(\.{1,2}\/[^"]+\.js)", import\.meta\.url\)/g)].map(
    (match) => match[1] ?? "",
  );
  return [...named, ...linked].map((wanted) => {
    const target = join(dirname(path), wanted);
    return path.endsWith(".d.ts") ? target.replace(/\.[jt]s$/, ".d.ts") : target;
  });
}
