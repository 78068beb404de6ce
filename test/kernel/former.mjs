// @ts-check
/**
 * A build of the version before, for the kernel test of upgrades (guest/former-version.test.ts).
 *
 * It is made of the repository's history, which a shallow clone does not have; then the test is skipped. What `npm test`
 * has in any case are the formats of that version (test/unit/formats.test.ts).
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** The version of test/fixtures/formats/formats-1.json. */
const COMMIT = "fea54a66";
/** Guests see the files below the project, and node_modules is of no interest to other tools. */
const PLACE = join(ROOT, "node_modules/.cache/erofs-nbd-former", COMMIT);

/** The `dist` directory of that version, built if need be; undefined without its history. */
export function formerBuild() {
  const dist = join(PLACE, "dist");
  if (existsSync(dist)) return dist;
  const run = (/** @type {string} */ file, /** @type {string[]} */ words, cwd = ROOT) =>
    execFileSync(file, words, { cwd, stdio: ["ignore", "pipe", "ignore"], maxBuffer: 1 << 28 });
  let archive;
  try {
    archive = run("git", ["archive", "--format=tar", COMMIT]);
  } catch {
    return undefined;
  }
  // Under another name until it is complete.
  const made = `${PLACE}.new`;
  rmSync(made, { recursive: true, force: true });
  mkdirSync(made, { recursive: true });
  execFileSync("tar", ["-x", "-C", made], { input: archive });
  symlinkSync(join(ROOT, "node_modules"), join(made, "node_modules"));
  run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"], made);
  run(process.execPath, ["tools/bundle.mjs"], made);
  renameSync(made, PLACE);
  return dist;
}
