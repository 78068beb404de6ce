/**
 * The import rules of biome.json, each with a file that must fail and a neighbour that must pass, so that none of them
 * can stop working unseen.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const FORBIDDEN = [
  ["netlink", "../src/errors.ts"],
  ["netlink", "koffi"],
  ["src/sys", "../nbd/wire.ts"],
  ["src/sys", "../errors.ts"],
  ["src/nbd", "../sys/libc.ts"],
  ["src/nbd", "../errors.ts"],
  ["src/nbd", "../printable.ts"],
  ["src/source", "../worker/pump.ts"],
  ["src/erofs", "../manager/manager.ts"],
  ["src/sys", "../journal/journal.ts"],
  ["src/nbd", "../journal/journal.ts"],
  ["src/journal", "../worker/pump.ts"],
  ["src/journal", "../source/source.ts"],
  ["src/journal", "koffi"],
  ["src/worker", "../manager/manager.ts"],
  ["src/worker", "../supervisor/sysfs.ts"],
  ["src/worker", "../../netlink/index.ts"],
  ["src/supervisor", "../manager/manager.ts"],
  ["src/supervisor", "../worker/pump.ts"],
  ["src/supervisor", "../journal/journal.ts"],
  ["src/supervisor", "../../netlink/socket.ts"],
  ["src/manager", "../cli/main.ts"],
  ["src/manager", "../worker/worker.ts"],
  ["src/manager", "koffi"],
  ["src/manager", "../chaos/engine.ts"],
  ["src/chaos", "../cli/main.ts"],
  ["src/chaos", "../manager/manager.ts"],
  ["src/chaos", "../supervisor/device-supervisor.ts"],
  ["src/chaos", "koffi"],
  ["src/library", "../cli/main.ts"],
  ["src/library", "../worker/worker.ts"],
  ["src/library", "koffi"],
  ["src/manager", "../library/attach.ts"],
  ["src/cli", "koffi"],
] as const;

const ALLOWED = [
  ["src/source", "../sys/libc.ts"],
  ["src/worker", "../source/source.ts"],
  ["src/worker", "../journal/journal.ts"],
  ["src/journal", "../nbd/wire.ts"],
  ["src/manager", "../journal/recovery.ts"],
  ["src/supervisor", "../../netlink/index.ts"],
  ["src/supervisor", "../worker/link-end.ts"],
  ["src/manager", "../supervisor/sysfs.ts"],
  ["src/chaos", "../manager/control-client.ts"],
  ["src/chaos", "../supervisor/sysfs.ts"],
  ["src/chaos", "../printable.ts"],
  ["src/library", "../manager/control-client.ts"],
  ["src/cli", "../manager/control-client.ts"],
  ["src/cli", "../chaos/engine.ts"],
] as const;

let directory: string;
let complaints: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "import-rules-"));
  const rules = JSON.parse(readFileSync(new URL("../../biome.json", import.meta.url), "utf8")) as {
    vcs?: unknown;
    $schema?: unknown;
  };
  delete rules.vcs;
  delete rules.$schema;
  writeFileSync(join(directory, "biome.json"), JSON.stringify(rules));
  const write = ([folder, imported]: readonly [string, string], name: string): void => {
    mkdirSync(join(directory, folder), { recursive: true });
    writeFileSync(
      join(directory, folder, name),
      `import { a } from "${imported}";\nexport const b: number = a;\n`,
    );
  };
  FORBIDDEN.forEach((pair, at) => {
    write(pair, `forbidden-${at}.ts`);
  });
  ALLOWED.forEach((pair, at) => {
    write(pair, `allowed-${at}.ts`);
  });
  const biome = join(
    dirname(createRequire(import.meta.url).resolve("@biomejs/biome/package.json")),
    "bin/biome",
  );
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [biome, "lint", "--max-diagnostics=none", "--colors=off", "."],
    { cwd: directory, encoding: "utf8" },
  );
  complaints = stdout + stderr;
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

test.each(FORBIDDEN.map(([folder, imported], at) => ({ folder, imported, at })))(
  "$folder may not import $imported",
  ({ folder, at }) => {
    expect(complaints).toMatch(
      new RegExp(`^${folder}/forbidden-${at}\\.ts:\\d+:\\d+ lint/style/noRestrictedImports`, "m"),
    );
  },
);

test.each(ALLOWED.map(([folder, imported], at) => ({ folder, imported, at })))(
  "$folder may import $imported",
  ({ folder, at }) => {
    expect(complaints).not.toMatch(
      new RegExp(`^${folder}/allowed-${at}\\.ts:\\d+:\\d+ lint/style/noRestrictedImports`, "m"),
    );
  },
);
