// @ts-check
/**
 * Bundles each program whose start is waited for into one file. Part of `npm run build`, after the compiler.
 *
 * A program of a hundred modules spends most of its start on finding and opening them. Each bundle is CommonJS, which
 * Node loads without its machinery for modules, and complete: a manager that runs for months never loads a file of
 * another version. What the library, the rarely used commands and the tests use are the compiler's files, which stay
 * beside them, in the folders that src/program-files.ts counts on.
 *
 * Lines and columns of a stack lead to the sources by the .map beside each bundle, which has nothing of other packages
 * in it. Where this Node is the one that runs them, code-cache.ts saves their compilation. THIRD-PARTY.txt has the
 * licences of what the bundles contain.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { decode, encode } from "@jridgewell/sourcemap-codec";
import { build } from "esbuild";
import { bundlePageScript, PAGE_SCRIPT } from "./page-script.mjs";
import { PROGRAMS } from "./programs.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const at = (/** @type {string} */ path) => join(ROOT, path);
const { version } = JSON.parse(readFileSync(at("package.json"), "utf8"));

/** The code of a part that was left out. */
const LEFT_OUT = 'throw new Error("this bundle does not have that part of the program");';

/**
 * koffi's native part, without koffi's own files, which find it and add warnings of old names. They are used where the
 * native part was built during the installation, is not found from here, or is of another version.
 */
const KOFFI = `
let native;
try { native = require("@koromix/koffi-linux-" + process.arch); } catch {}
module.exports = native?.version === ${JSON.stringify(versionOf("koffi"))} ? native : require("koffi");`;

/** @param {string} name */
function versionOf(name) {
  return JSON.parse(readFileSync(at(`node_modules/${name}/package.json`), "utf8")).version;
}

/** Parts of pino that log.ts does not use: they write in other threads, and to files of their own. */
const UNUSED_BY_PINO = /^(worker_threads|thread-stream|sonic-boom)$/;
const NOTHING = "module.exports = function unused() {}; module.exports.isMainThread = true;";

/** commander starts subcommands that are programs of their own, and loads for them what takes a tenth of `--help`. */
const SPAWN_LATER =
  'module.exports = { spawn: (...words) => require("node:child_process").spawn(...words) };';

/** @param {import("./programs.d.mts").Program} program @returns {import("esbuild").Plugin} */
const leaveOut = ({ without, beside }) => ({
  name: "leave-out",
  setup(builder) {
    builder.onResolve({ filter: /^\./ }, ({ path, kind }) => {
      if (kind !== "dynamic-import") return undefined;
      if (beside?.test(path) === true) return { path: path.replace(/\.ts$/, ".js"), external: true };
      return without?.test(path) === true ? { path, namespace: "left-out" } : undefined;
    });
    builder.onResolve({ filter: /^koffi$/ }, ({ path, namespace }) =>
      namespace === "native" ? { path, external: true } : { path, namespace: "native" },
    );
    builder.onLoad({ filter: /./, namespace: "native" }, () => ({ contents: KOFFI }));
    builder.onResolve({ filter: UNUSED_BY_PINO }, ({ path, importer }) =>
      /\/node_modules\/pino\//.test(importer) ? { path, namespace: "unused" } : undefined,
    );
    builder.onResolve({ filter: /^node:child_process$/ }, ({ path, importer }) =>
      /\/node_modules\/commander\//.test(importer) ? { path, namespace: "later" } : undefined,
    );
    builder.onLoad({ filter: /./, namespace: "later" }, () => ({ contents: SPAWN_LATER }));
    builder.onLoad({ filter: /./, namespace: "unused" }, () => ({ contents: NOTHING }));
    builder.onLoad({ filter: /./, namespace: "left-out" }, () => ({ contents: LEFT_OUT }));
  },
});

/** Takes the code of other packages out of a source map, which is most of it. @param {string} path */
function keepOwnLines(path) {
  const map = JSON.parse(readFileSync(path, "utf8"));
  const isOwn = map.sources.map((/** @type {string} */ source) => /^(\.\.\/)+(src|netlink)\//.test(source));
  const sources = map.sources.filter((/** @type {string} */ _, /** @type {number} */ old) => isOwn[old]);
  const mappings = decode(map.mappings).map((line) =>
    line.map((segment) => {
      if (segment.length === 1 || !isOwn[segment[1]]) return /** @type {[number]} */ ([segment[0]]);
      const source = sources.indexOf(map.sources[segment[1]]);
      return /** @type {[number, number, number, number]} */ ([segment[0], source, segment[2], segment[3]]);
    }),
  );
  writeFileSync(path, JSON.stringify({ ...map, sources, names: [], mappings: encode(mappings) }));
}

/** @type {Record<string, string>} Checksums of bundles with a cache, by their place below dist/src. */
const sums = {};

/**
 * Leaves the compiled code of a bundle beside it (code-cache.ts).
 * @param {string} path
 * @param {readonly string[]} words
 */
function makeCache(path, words) {
  const sum = createHash("sha256").update(readFileSync(path)).digest("hex").slice(0, 16);
  sums[relative(at("dist/src"), path)] = sum;
  const isOld = (/** @type {string} */ name) =>
    name.startsWith(`${basename(path)}.`) && name.endsWith(".cache");
  for (const name of readdirSync(dirname(path)).filter(isOld)) rmSync(join(dirname(path), name));
  const cache = `${path}.${sum}-${process.version}.cache`;
  execFileSync(process.execPath, [at("tools/code-cache.mjs"), path, cache, ...words], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { PATH: process.env["PATH"] },
  });
}

/** Names of packages that a bundle has code of. @type {Set<string>} */
const contained = new Set();

for (const program of PROGRAMS) {
  const { entry, file } = program;
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: [entry],
    outfile: join("dist", file),
    bundle: true,
    platform: "node",
    format: "cjs",
    target: "node20.11",
    plugins: [leaveOut(program)],
    banner: {
      js:
        '"use strict";const bundleUrl=require("node:url").pathToFileURL(__filename).href,' +
        'bundleRoot=require("node:path").dirname(__dirname);',
    },
    define: {
      "import.meta.url": "bundleUrl",
      BUNDLE_ROOT: "bundleRoot",
      BUNDLED_VERSION: JSON.stringify(version),
      BUNDLE_SUMS: JSON.stringify(sums),
    },
    // Names are kept, so that stacks are readable.
    minifyWhitespace: true,
    minifySyntax: true,
    sourcemap: "linked",
    sourcesContent: false,
    legalComments: "none",
    metafile: true,
    logLevel: "warning",
  });
  keepOwnLines(at(`dist/${file}.map`));
  if (program.cachedAfter !== undefined) makeCache(at(`dist/${file}`), program.cachedAfter);
  for (const input of Object.keys(metafile.inputs)) {
    const name = /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1];
    if (name !== undefined) contained.add(join(ROOT, input.slice(0, input.indexOf(name) + name.length)));
  }
}

writeFileSync(at(PAGE_SCRIPT), await bundlePageScript());

/** The text of a package's licence. @param {string} directory */
function licenceOf(directory) {
  const name = readdirSync(directory).find((one) => /^licen[cs]e/i.test(one));
  if (name === undefined)
    throw new Error(`${basename(dirname(directory))}/${basename(directory)} has no licence file`);
  return readFileSync(join(directory, name), "utf8").trim();
}

const parts = [...contained].sort().map((directory) => {
  const manifest = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
  return `${manifest.name} ${manifest.version} (${manifest.license})\n\n${licenceOf(directory)}\n`;
});
const intro = "The .cjs files of this package contain code of these packages.\n";
writeFileSync(at("dist/THIRD-PARTY.txt"), [intro, ...parts].join(`\n${"-".repeat(80)}\n\n`));
