/**
 * The import rules of biome.json, each with a file that must fail and a neighbour that must pass, so that none of them
 * can stop working unseen.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NETLINK_ROOMS, ROOMS, withRules } from "../../tools/import-rules.mjs";

/** Written down here as well as in the table, so that a slip in the table shows. */
const FORBIDDEN = [
  ["netlink", "../src/errors.ts"],
  ["netlink", "koffi"],
  ["netlink", "./wire/message.ts"],
  ["netlink/wire", "../../src/errors.ts"],
  ["netlink/wire", "../client/nbd.ts"],
  ["netlink/wire", "../transport/transport.ts"],
  ["netlink/wire", "../index.ts"],
  ["netlink/wire", "koffi"],
  ["netlink/transport", "../../src/errors.ts"],
  ["netlink/transport", "../client/socket.ts"],
  ["netlink/transport", "koffi"],
  ["netlink/client", "../../src/errors.ts"],
  ["netlink/client", "../index.ts"],
  ["netlink/client", "koffi"],
  ["src/text", "../sys/libc/files.ts"],
  ["src/text", "../errors.ts"],
  ["src/log", "../control/client.ts"],
  ["src/sys", "../nbd/wire.ts"],
  ["src/sys", "../journal/journal.ts"],
  ["src/sys", "../errors.ts"],
  ["src/sys/sockets", "../../errors.ts"],
  ["src/kernel", "../supervisor/ports.ts"],
  ["src/kernel", "../../netlink/client/socket.ts"],
  ["src/nbd", "../sys/libc/files.ts"],
  ["src/nbd", "../errors.ts"],
  ["src/nbd", "../text/printable.ts"],
  ["src/nbd/handshake", "../../sys/libc/files.ts"],
  ["src/nbd", "../journal/journal.ts"],
  ["src/source", "../serving/pump.ts"],
  ["src/erofs", "../manager/manager.ts"],
  ["src/journal", "../serving/pump.ts"],
  ["src/journal", "../source/source.ts"],
  ["src/journal", "koffi"],
  ["src/worker-protocol", "../worker/worker.ts"],
  ["src/worker-protocol", "../pool/held-link.ts"],
  ["src/serving", "../worker/worker.ts"],
  ["src/serving", "../pool/held-link.ts"],
  ["src/serving", "../kernel/sysfs.ts"],
  ["src/worker", "../manager/manager.ts"],
  ["src/worker", "../kernel/sysfs.ts"],
  ["src/worker", "../../netlink/index.ts"],
  ["src/supervisor", "../manager/manager.ts"],
  ["src/supervisor", "../pool/worker-pool.ts"],
  ["src/supervisor", "../serving/pump.ts"],
  ["src/supervisor", "../journal/journal.ts"],
  ["src/supervisor", "../../netlink/client/socket.ts"],
  ["src/supervisor/failover", "../../pool/worker-pool.ts"],
  ["src/pool", "../manager/manager.ts"],
  ["src/pool", "../serving/pump.ts"],
  ["src/pool", "../kernel/sysfs.ts"],
  ["src/control", "../manager/manager.ts"],
  ["src/control", "../pool/worker-pool.ts"],
  ["src/manager", "../cli/main.ts"],
  ["src/manager", "../worker/worker.ts"],
  ["src/manager", "../serving/pump.ts"],
  ["src/manager", "koffi"],
  ["src/manager", "../chaos/engine.ts"],
  ["src/manager", "../library/attach.ts"],
  ["src/manager/records", "../../cli/main.ts"],
  ["src/chaos", "../cli/main.ts"],
  ["src/chaos", "../manager/manager.ts"],
  ["src/chaos", "../supervisor/netlink-device.ts"],
  ["src/chaos", "../kernel/probe.ts"],
  ["src/chaos", "koffi"],
  ["src/library", "../cli/main.ts"],
  ["src/library", "../worker/worker.ts"],
  ["src/library", "../pool/worker-pool.ts"],
  ["src/library", "koffi"],
  ["src/cli", "../worker/worker.ts"],
  ["src/cli", "../library/attach.ts"],
  ["src/cli", "koffi"],
] as const;

const ALLOWED = [
  ["netlink/wire", "../errors.ts"],
  ["netlink/transport", "../wire/attributes.ts"],
  ["netlink/client", "../transport/transport.ts"],
  ["netlink/client", "../constants.ts"],
  ["src/kernel", "../../netlink/index.ts"],
  ["src/source", "../sys/libc/files.ts"],
  ["src/serving", "../source/source.ts"],
  ["src/serving", "../journal/journal.ts"],
  ["src/worker", "../serving/pump.ts"],
  ["src/journal", "../nbd/wire.ts"],
  ["src/supervisor", "../../netlink/index.ts"],
  ["src/supervisor", "../worker-protocol/link-end.ts"],
  ["src/supervisor/failover", "../../kernel/sysfs.ts"],
  ["src/pool", "../journal/recovery.ts"],
  ["src/manager", "../pool/worker-pool.ts"],
  ["src/manager", "../kernel/sysfs.ts"],
  ["src/chaos", "../control/client.ts"],
  ["src/chaos", "../kernel/sysfs.ts"],
  ["src/chaos", "../text/printable.ts"],
  ["src/library", "../control/client.ts"],
  ["src/cli", "../control/client.ts"],
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

test("biome.json has the rules of the table (else: node tools/import-rules.mjs --write)", () => {
  const text = readFileSync("biome.json", "utf8");
  expect(JSON.parse(text)).toEqual(withRules(text));
});

test.each([
  ["src", ROOMS],
  ["netlink", NETLINK_ROOMS],
])("the table has each folder of %s/", (top, rooms) => {
  const folders = readdirSync(top, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  expect(rooms.map(({ room }) => room).sort()).toEqual(folders.map(({ name }) => name).sort());
});
