/**
 * The tarball as its users get it. publint and attw check it, and TypeScript compiles a program against it: the oldest
 * supported version, the last one before the native compiler, and the version of this project. Needs no network.
 */
import { execFile, execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { packTarball } from "./tarball.ts";

const project = mkdtempSync(join(tmpdir(), "erofs-nbd-consumer-"));
const installed = join(project, "node_modules", "erofs-nbd");
let tarball = "";

beforeAll(() => {
  tarball = packTarball(project).path;
  mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["xf", tarball, "-C", installed, "--strip-components=1"]);
  // Like npm install: the dependencies lie beside the package, and the user has installed @types/node.
  const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as {
    dependencies: Record<string, string>;
  };
  mkdirSync(join(project, "node_modules", "@types"));
  for (const name of [...Object.keys(dependencies), "@types/node"])
    symlinkSync(resolve("node_modules", name), join(project, "node_modules", name));
  writeFileSync(join(project, "package.json"), '{ "type": "module" }\n');
  cpSync("test/unit/package/consumer", project, { recursive: true });
});

afterAll(() => rmSync(project, { recursive: true, force: true }));

describe("the manifest", () => {
  test("satisfies publint", async () => {
    const { status, stdout } = await run("publint", "publint", ["run", tarball, "--strict"]);
    expect({ status, stdout: status === 0 ? "" : stdout }).toEqual({ status: 0, stdout: "" });
  });

  test("satisfies attw: each resolution of ES modules finds code and types", async () => {
    const { status, stdout } = await run("@arethetypeswrong/cli", "attw", [
      ...[tarball, "--profile", "esm-only"],
      // Without this option attw asks the registry.
      ...["--no-definitely-typed", "--format", "ascii", "--no-emoji", "--no-color"],
    ]);
    expect({ status, stdout: status === 0 ? "" : stdout }).toEqual({ status: 0, stdout: "" });
  });
});

describe.each(["typescript-5.4", "typescript-5.9", "typescript"])("a program compiled by %s", (compiler) => {
  // Each version compiles with each module setting and with and without `types`, but not with each combination.
  test.each([
    { module: "nodenext", moduleResolution: "nodenext" },
    { module: "esnext", moduleResolution: "bundler", types: ["node"] },
  ])("has no type errors with module $module, and neither have the declarations", async (settings) => {
    const compilerOptions = {
      ...settings,
      ...{ target: "es2022", lib: ["es2022"], strict: true, exactOptionalPropertyTypes: true },
      ...{ resolveJsonModule: true, noEmit: true },
      // Checks the declarations of the package and its imports, but not the libraries of the compiler.
      ...{ skipLibCheck: false, skipDefaultLibCheck: true },
    };
    const path = join(project, `tsconfig.${compiler}.${settings.module}.json`);
    writeFileSync(path, JSON.stringify({ compilerOptions, files: ["program.ts"] }));
    const { status, stdout } = await run(compiler, "tsc", ["--project", path]);
    expect({ stdout, status }).toEqual({ stdout: "", status: 0 });
  });
});

/** Runs a program of an installed package with this Node.js. Not synchronous: vitest wants answers meanwhile. */
function run(
  packageName: string,
  program: string,
  args: readonly string[],
): Promise<{ readonly status: number | null; readonly stdout: string }> {
  const manifest = resolve("node_modules", packageName, "package.json");
  const { bin } = JSON.parse(readFileSync(manifest, "utf8")) as {
    bin: string | Record<string, string>;
  };
  const path = join(dirname(manifest), typeof bin === "string" ? bin : (bin[program] ?? ""));
  return new Promise((done) => {
    const child = execFile(process.execPath, [path, ...args], (_, stdout) =>
      done({ status: child.exitCode, stdout }),
    );
  });
}
