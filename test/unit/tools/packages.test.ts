/**
 * tools/packages.mjs on a small clone with a dependency of its own, so that npm needs no network: installs once,
 * installs again when the lock file changes, and says in one line why it cannot.
 */
import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

describe("the project's packages", () => {
  let root = "";

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "clone-"));
    cpSync("tools", join(root, "tools"), { recursive: true });
    writeDependency("1.0.0");
    writeManifest({ part: "file:part" });
    lock();
  });

  afterEach(() => rmSync(root, { recursive: true, force: true }));

  test("are installed once when two runs start at the same time on a fresh clone", async () => {
    const ends = await Promise.all([install(), install()]);
    expect(ends.map(({ code }) => code)).toEqual([0, 0]);
    const said = ends.map(({ stderr }) => stderr).join("");
    expect(said.match(/running npm ci/g)).toHaveLength(1);
    expect(existsSync(join(root, "node_modules", "part", "package.json"))).toBe(true);
    expect(await install()).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("are installed again when package-lock.json asks for another version", async () => {
    await install();
    writeDependency("2.0.0");
    const path = join(root, "package-lock.json");
    const before = readFileSync(path, "utf8");
    const after = before.replace(/("part": \{[^}]*"version": )"1\.0\.0"/, '$1"2.0.0"');
    expect(after).not.toBe(before);
    writeFileSync(path, after);
    expect((await install()).stderr).toBe(
      "node_modules does not match package-lock.json (part): running npm ci\n",
    );
    expect(await install()).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("are installed again when an installation was cut off, or a package is gone", async () => {
    await install();
    rmSync(join(root, "node_modules", ".package-lock.json"));
    expect((await install()).stderr).toBe("node_modules is missing or incomplete: running npm ci\n");
    rmSync(join(root, "node_modules", "part"), { recursive: true });
    expect((await install()).stderr).toBe(
      "node_modules is incomplete (node_modules/part is missing): running npm ci\n",
    );
  });

  test("that cannot be installed are an error of one line and a hint", async () => {
    writeManifest({ part: "file:part", other: "file:other" });
    const { code, stderr } = await install();
    expect(code).toBe(1);
    const [first, second, third, ...rest] = stderr.split("\n");
    expect(first).toBe("node_modules is missing or incomplete: running npm ci");
    expect(second).toMatch(/^erofs-nbd: cannot install the project's packages: npm ci: .*package-lock\.json/);
    expect(third).toBe(`hint: run npm ci in ${root}/ to see all that npm says`);
    expect(rest).toEqual([""]);
    expect(existsSync(join(root, ".cache", "install.lock"))).toBe(false);
  });

  test("are not asked of a Node.js that is too old", async () => {
    writeManifest({ part: "file:part" }, ">=999.1");
    const { code, stderr } = await install();
    expect(code).toBe(1);
    expect(stderr.split("\n")[0]).toBe(
      `erofs-nbd: this is Node.js ${process.versions.node}: 999.1 or newer is needed`,
    );
    expect(existsSync(join(root, "node_modules"))).toBe(false);
  });

  function writeDependency(version: string): void {
    mkdirSync(join(root, "part"), { recursive: true });
    writeFileSync(join(root, "part", "package.json"), JSON.stringify({ name: "part", version }));
  }

  function writeManifest(dependencies: Record<string, string>, node = ">=20.19"): void {
    const manifest = { name: "clone", version: "1.0.0", engines: { node }, dependencies };
    writeFileSync(join(root, "package.json"), JSON.stringify(manifest));
  }

  function lock(): void {
    rmSync(join(root, "package-lock.json"), { force: true });
    execFileSync("npm", ["install", "--package-lock-only", "--offline"], { cwd: root, stdio: "ignore" });
    expect(readFileSync(join(root, "package-lock.json"), "utf8")).toContain('"part"');
  }

  async function install(): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const child = spawn(process.execPath, [join(root, "tools", "packages.mjs")], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    const ended = new Promise<number | null>((done) => {
      child.once("exit", done);
    });
    const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
    return { code, stdout, stderr };
  }
});
