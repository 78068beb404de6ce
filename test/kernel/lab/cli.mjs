// @ts-check
/**
 * `npm run lab -- KERNEL [OPTIONS] -- COMMAND…`: runs any command inside a lab kernel. For developers; the tests and
 * the demo call boot() themselves.
 */
import { parseArgs } from "node:util";
import { boot, KERNEL_SERIES } from "./boot.mjs";
import { LabError } from "./errors.mjs";
import { prepareKernel } from "./image/kernels.mjs";

const GUEST_SUITE = "test/kernel/lab/guest/guest-suite.mjs";
const USAGE = `usage: npm run lab -- KERNEL|all [OPTIONS] -- COMMAND [ARGUMENT…]
       npm run lab -- prepare            download and unpack every kernel, run nothing

KERNEL: ${KERNEL_SERIES.join(", ")}. COMMAND runs as root in a fresh guest that sees this machine's files (changes are
lost), with its own /tmp, /run and /dev, and modules nbd and erofs. Example:
       npm run lab -- 6.12 -- sh -c 'uname -r; ls /dev/nbd0'

  --timeout SECONDS   the guest's time limit (default 120)
  --memory MIB        default 2048
  --output DIR        keep stdout, stderr, dmesg and console.log there; writable in the guest as $EROFS_NBD_LAB_SHARE
  --modules LIST      comma-separated, loaded before the command; "" for none (default nbd,erofs)
  --env NAME=VALUE    may be repeated
  --suite             COMMAND is \`vitest run\` over test/kernel/guest: -- NAME… -t PATTERN and so on
  --dmesg             print the guest's kernel log at the end
`;

/** @param {readonly string[]} argv */
function parse(argv) {
  const separator = argv.indexOf("--");
  const own = separator === -1 ? argv : argv.slice(0, separator);
  const { values, positionals } = parseArgs({
    args: [...own],
    allowPositionals: true,
    options: {
      timeout: { type: "string", default: "120" },
      memory: { type: "string", default: "2048" },
      output: { type: "string" },
      modules: { type: "string", default: "nbd,erofs" },
      env: { type: "string", multiple: true, default: [] },
      dmesg: { type: "boolean", default: false },
      suite: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const words = separator === -1 ? positionals.slice(1) : argv.slice(separator + 1);
  const command = values.suite ? [process.execPath, GUEST_SUITE, ...words] : words;
  return { values, kernel: positionals[0], command };
}

/**
 * @param {import("./types.ts").KernelSeries} kernel
 * @param {ReturnType<typeof parse>} request
 */
async function runOne(kernel, { values, command }) {
  const interrupt = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"]) process.once(name, () => interrupt.abort());
  const result = await boot({
    kernel,
    command,
    signal: interrupt.signal,
    env: Object.fromEntries(
      values.env.map((pair) => [pair.split("=")[0] ?? "", pair.slice(pair.indexOf("=") + 1)]),
    ),
    timeoutMs: Number(values.timeout) * 1000,
    memoryMiB: Number(values.memory),
    modules: values.modules.split(",").filter((name) => name !== ""),
    ...(values.output === undefined ? {} : { outputDir: values.output }),
    onOutput: (stream, text) => process[stream].write(text),
  });
  if (values.dmesg) process.stderr.write(`${result.dmesg}\n`);
  process.stderr.write(
    `lab: ${result.version} booted in ${result.bootMs} ms, ${result.totalMs} ms in all, exit ${result.exitCode}\n`,
  );
  return result.exitCode;
}

async function main() {
  const request = parse(process.argv.slice(2));
  if (request.values.help || request.kernel === undefined) {
    process.stdout.write(USAGE);
    return request.values.help ? 0 : 1;
  }
  if (request.kernel === "prepare") {
    for (const series of KERNEL_SERIES) {
      const kernel = await prepareKernel(series);
      process.stdout.write(`${series}: ${kernel.version} at ${kernel.directory}\n`);
    }
    return 0;
  }
  const chosen = KERNEL_SERIES.filter((series) => request.kernel === series || request.kernel === "all");
  if (chosen.length === 0 || request.command.length === 0) {
    process.stderr.write(USAGE);
    return 1;
  }
  let exitCode = 0;
  for (const kernel of chosen) exitCode ||= await runOne(kernel, request);
  return exitCode;
}

try {
  process.exitCode = await main();
} catch (error) {
  // TypeError: parseArgs about our own options.
  if (!(error instanceof LabError) && !(error instanceof TypeError)) throw error;
  process.stderr.write(`lab: ${error.message}\n`);
  if (error instanceof LabError && error.hint !== undefined) process.stderr.write(`hint: ${error.hint}\n`);
  process.exitCode = 2;
}
