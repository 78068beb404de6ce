/** Importing the package: cheap, without side effects, and everything that docs/library.md names is there. */
import { execFileSync, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

function run(program: string): string {
  return execFileSync(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: ROOT,
    encoding: "utf8",
    // One that something keeps alive never ends by itself.
    timeout: 60_000,
  });
}

describe("import erofs-nbd", () => {
  test("loads neither the system's calls nor the manager, and leaves nothing that keeps the process", () => {
    const said = run(`
      import { readFileSync } from "node:fs";
      const library = await import("erofs-nbd");
      const loaded = readFileSync("/proc/self/maps", "utf8").includes("koffi");
      console.log(JSON.stringify([loaded, Object.keys(library)]));
    `);
    const [loaded, names] = JSON.parse(said) as [boolean, string[]];
    expect(loaded).toBe(false);
    expect(names).toEqual(
      expect.arrayContaining([
        "attach",
        "find",
        "list",
        "NbdManager",
        "ErofsNbdError",
        "ControlError",
        "EXIT",
        "VERSION",
      ]),
    );
  });

  test.runIf(process.getuid?.() === 0)(
    "attach refuses what cannot be attached before it starts a manager",
    () => {
      const said = run(`
      import { attach } from "erofs-nbd";
      for (const source of ["/nowhere/a.erofs", { module: "/nowhere/m.js" }, "/tmp"]) {
        await attach(source, { runDir: "/nowhere/run" }).catch((error) => console.log(error.code));
      }
    `);
      expect(said.trim().split("\n")).toEqual(["ERR_IMAGE", "ERR_SOURCE", "ERR_IMAGE"]);
    },
  );

  test("the examples print their usage when they are called without arguments", () => {
    const result = spawnSync(process.execPath, ["examples/attach.mjs"], { cwd: ROOT, encoding: "utf8" });
    expect(result.status).toBe(1);
    expect(result.stderr).toContain("usage: node examples/attach.mjs IMAGE [SECONDS]");
  });
});
