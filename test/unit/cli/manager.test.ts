/**
 * The manager command as a service would start it: what it says when it is ready, where it offers metrics, how it logs.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { parsePrometheusText } from "../../helpers/prometheus-text.ts";
import { freePort } from "../../helpers/sockets/free-port.ts";
import { until } from "../../helpers/until.ts";
import { CLI, runCli, startCli } from "./run-cli.ts";

const SPAWN_WITNESS = new URL("../../helpers/processes/spawn-witness.mjs", import.meta.url).href;
const TELL_KEYRING = new URL("./tell-keyring.mjs", import.meta.url).href;

let directory = "";
let runDir = "";

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-manager-"));
  runDir = join(directory, "run");
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const scrape = (where: { socketPath: string } | { host: string; port: number }): Promise<string> =>
  new Promise((resolve, reject) => {
    get({ ...where, path: "/metrics", agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      response.once("end", () => resolve(text));
    }).once("error", reject);
  });

test("--json names it when it is ready; metrics are at its socket and where it was asked for", async () => {
  const port = await freePort();
  const command = startCli(["--run-dir", runDir, "manager", "--json"], {
    env: { EROFS_NBD_METRICS_LISTEN: `localhost:${port}`, EROFS_NBD_LOG: "debug" },
  });
  const [text] = await command.until("stdout", /^\{[^}]+\}\n/);
  const ready = JSON.parse(text) as Record<string, unknown>;
  expect(ready).toEqual({
    pid: expect.any(Number),
    version: expect.stringMatching(/^\d+\.\d+\.\d+/),
    runDir,
    controlSocket: join(runDir, "control.sock"),
    metricsSocket: join(runDir, "metrics.sock"),
    metricsListen: `localhost:${port}`,
  });
  await command.until("stderr", /Metrics are offered at 127\.0\.0\.1/);
  for (const where of [{ socketPath: join(runDir, "metrics.sock") }, { host: "127.0.0.1", port }]) {
    const families = parsePrometheusText(await scrape(where));
    const memory = families.get("erofs_nbd_resident_memory_bytes")?.samples ?? [];
    expect(memory[0]?.value).toBeGreaterThan(10e6);
    expect(families.get("erofs_nbd_devices")?.samples.map(({ value }) => value)).toEqual(Array(7).fill(0));
  }
  await command.until("stderr", /"level":20.*"msg":"Rendered metrics"/);
  command.child.kill("SIGTERM");
  expect((await command.ended).code).toBe(0);
  expect(existsSync(join(runDir, "metrics.sock"))).toBe(false);
});

test("an empty EROFS_NBD_METRICS_LISTEN is none", async () => {
  const env = { EROFS_NBD_METRICS_LISTEN: "" };
  const command = startCli(["--run-dir", runDir, "manager", "--json"], { env });
  const [text] = await command.until("stdout", /^\{[^}]+\}\n/);
  expect(JSON.parse(text)).toMatchObject({ metricsListen: null });
  command.child.kill("SIGTERM");
  expect((await command.ended).code).toBe(0);
});

test.each([
  ["--metrics-listen", "", /expected HOST:PORT/],
  ["--metrics-listen", "0.0.0.0:9809", /expected a loopback address/],
  ["--metrics-listen", "9809", /expected HOST:PORT/],
  ["--log-level", "loud", /debug, info, warn, error/],
])("%s %s is refused before anything is there", async (option, value, message) => {
  const result = await runCli(["--run-dir", runDir, "manager", option, value]);
  expect(result).toMatchObject({ code: 1, stdout: "" });
  expect(result.stderr).toMatch(message);
  expect(existsSync(runDir)).toBe(false);
});

test("a run directory that others may enter is taken with all that a manager leaves in it", async () => {
  const first = startCli(["--run-dir", runDir, "manager", "--json"]);
  await first.until("stdout", /\}\n/);
  first.child.kill("SIGKILL");
  await first.ended;
  writeFileSync(join(runDir, "manager.log"), "");
  writeFileSync(join(runDir, "manager.log.1"), "");
  expect(readdirSync(runDir)).toContain("metrics.sock");
  chmodSync(runDir, 0o755);
  const second = startCli(["--run-dir", runDir, "manager", "--json"]);
  await second.until("stdout", /\}\n/);
  await scrape({ socketPath: join(runDir, "metrics.sock") });
  second.child.kill("SIGTERM");
  expect((await second.ended).code).toBe(0);
});

test("neither it nor its workers hold open what its shell had open, such as a lock's file", async () => {
  const lock = join(directory, "lock");
  const held = openSync(lock, "w");
  const command = startCli(["--run-dir", runDir, "manager", "--json"], { held });
  closeSync(held);
  await command.until("stdout", /\}\n/);
  const { pid } = command.child;
  const workers = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
  expect(workers).toHaveLength(2);
  const open = (of: string | number | undefined): string[] =>
    readdirSync(`/proc/${of}/fd`).map((fd) => readlinkSync(`/proc/${of}/fd/${fd}`));
  for (const process of [pid, ...workers]) expect(open(process)).not.toContain(lock);
  command.child.kill("SIGTERM");
  expect((await command.ended).code).toBe(0);
});

test.runIf(existsSync("/proc/keys"))("its workers have no keys of the user who started it", async () => {
  const env = { NODE_OPTIONS: `--import ${TELL_KEYRING}`, TELL_KEYRING: directory };
  const command = startCli(["--run-dir", runDir, "manager", "--json"], { env });
  await command.until("stdout", /\}\n/);
  const told = (program: string): string[] =>
    readdirSync(directory)
      .filter((name) => name.startsWith(program))
      .map((name) => readFileSync(join(directory, name), "utf8"))
      .filter((text) => text !== "");
  await until("a worker has told", () => told("worker-").length > 0);
  expect(told("cli-")).toEqual([expect.stringMatching(/^\d+$/)]);
  expect(told("worker-")[0]).toMatch(/^\d+$/);
  expect(told("cli-")).not.toContain(told("worker-")[0]);
  command.child.kill("SIGTERM");
  expect((await command.ended).code).toBe(0);
});

test("what it writes to the journal has a priority in every line, also what Node warns of and a result", async () => {
  const path = join(directory, "journal");
  const fd = openSync(path, "a");
  const { dev, ino } = fstatSync(fd);
  const warn =
    'if (process.argv.includes("manager")) process.on("SIGUSR2", () => process.emitWarning("of\\nNode"))';
  const words = ["--run-dir", runDir, "manager", "--json"];
  const env = {
    ...process.env,
    JOURNAL_STREAM: `${dev}:${ino}`,
    NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(warn)}`,
  };
  const child = spawn(process.execPath, [CLI, ...words], { stdio: ["ignore", fd, fd], env });
  closeSync(fd);
  const lines = (): string[] => readFileSync(path, "utf8").trimEnd().split("\n");
  try {
    await until("the manager", () => lines().some((line) => line.includes("controlSocket")));
    child.kill("SIGUSR2");
    await until("the warning", () => lines().some((line) => line.includes("Node")));
  } finally {
    child.kill("SIGTERM");
    await once(child, "exit");
  }
  expect(lines().filter((line) => !/^<[3-7]>/.test(line))).toEqual([]);
  expect(lines().find((line) => line.includes("Node"))).toMatch(/^<4>Warning: of Node /);
  expect(lines().find((line) => line.includes("controlSocket"))).toMatch(/^<6>/);
});

test("its guardian starts the next one with the same options", async () => {
  const port = await freePort();
  const words = ["--run-dir", runDir, "manager", "--json", "--metrics-listen", `127.0.0.1:${port}`];
  mkdirSync(join(runDir, "devices"), { recursive: true, mode: 0o700 });
  // Something to guard: a record, though not one that it understands.
  writeFileSync(join(runDir, "devices", "some.json"), "{}");
  // It is not needed for long: there are no devices, which the manager finds out next.
  const witness = join(directory, "spawned");
  const env = { NODE_OPTIONS: `--import ${SPAWN_WITNESS}`, SPAWN_WITNESS: witness };
  const command = startCli([...words, "--log-level", "warn"], { env });
  await command.until("stdout", /^\{[^}]+\}\n/);
  const started = readFileSync(witness, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { args: string[]; env: NodeJS.ProcessEnv });
  const guardian = started.find(({ args }) => args.includes("erofs-nbd guardian"));
  expect(guardian?.env).toMatchObject({
    EROFS_NBD_METRICS_LISTEN: `127.0.0.1:${port}`,
    EROFS_NBD_LOG: "warn",
  });
  command.child.kill("SIGTERM");
  expect((await command.ended).code).toBe(0);
});
