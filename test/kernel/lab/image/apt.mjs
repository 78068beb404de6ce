// @ts-check
/**
 * Debian packages from any suite, downloaded and unpacked without installing anything and without root.
 *
 * kernels.mjs, uml.mjs and qemu.mjs call it. apt is given directories of its own, so the machine's package state is
 * neither read nor changed; only the mirror's address, proxies and credentials come from the machine's configuration.
 * It never runs a package's scripts.
 */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { HOST_HINT, LabError } from "../errors.mjs";

const run = promisify(execFile);
const KEYRINGS = ["gpg", "pgp"].map((suffix) => `/usr/share/keyrings/debian-archive-keyring.${suffix}`);
const COMMAND_LIMIT_MS = 300_000;

/** One suite of the Debian archive, usable through `download()`. */
export class Suite {
  /** @type {readonly string[]} */
  #options;
  #name;

  /**
   * @param {string} name for messages, e.g. "trixie"
   * @param {readonly string[]} options apt-get options that select the suite's own directories
   */
  constructor(name, options) {
    this.#name = name;
    this.#options = options;
  }

  /**
   * Downloads packages and unpacks them into `target`, a directory that must exist.
   * @param {readonly string[]} packages
   * @param {string} target
   */
  async download(packages, target) {
    const debs = mkdtempSync(join(target, ".debs-"));
    await apt(this.#downloading(packages), [...this.#options, "download", ...packages], debs);
    await unpack(debs, target);
  }

  /**
   * The same with everything the packages depend on, down to the C library: what is needed to run their programs
   * whatever the machine has.
   * @param {readonly string[]} packages
   * @param {string} target
   */
  async downloadWithDependencies(packages, target) {
    const debs = mkdtempSync(join(target, ".debs-"));
    mkdirSync(join(debs, "partial"));
    const options = [
      "-o",
      `Dir::Cache::Archives=${debs}`,
      "--yes",
      "--no-install-recommends",
      "--download-only",
    ];
    // The suite's own status file is empty: for apt nothing is installed, so that it leaves nothing out.
    await apt(this.#downloading(packages), [...this.#options, ...options, "install", ...packages], debs);
    await unpack(debs, target);
  }

  /**
   * The one package that `name` depends on and whose name fits: what a metapackage stands for today.
   * @param {string} name
   * @param {RegExp} pattern
   * @returns {Promise<string>}
   */
  async dependency(name, pattern) {
    const what = `find what ${name} of ${this.#name} stands for`;
    const text = await command(what, "apt-cache", [...this.#options, "depends", name], "/");
    const names = [...text.matchAll(/^\s*Depends: (\S+)$/gm)].map((match) => match[1] ?? "");
    const found = names.find((each) => pattern.test(each));
    if (found === undefined) throw new LabError("ERR_LAB_PREPARE", `cannot ${what}: it depends on ${names}`);
    return found;
  }

  /** @param {readonly string[]} packages */
  #downloading(packages) {
    return `download ${packages.join(", ")} from ${this.#name}`;
  }
}

/**
 * Opens a suite: writes apt's private directories under `directory` and fetches the package list.
 * @param {string} name suite name, e.g. "bookworm"
 * @param {string} directory an existing directory
 * @param {string} [architecture] of the packages, in Debian's words
 */
export async function openSuite(name, directory, architecture = "amd64") {
  const mirror = await debianMirror();
  const keyring = KEYRINGS.find((path) => existsSync(path));
  if (keyring === undefined) {
    throw new LabError(
      "ERR_LAB_UNSUPPORTED",
      "cannot fetch kernels: no Debian archive keyring on this machine",
      {
        hint: "install the package debian-archive-keyring",
      },
    );
  }
  const base = join(directory, architecture === "amd64" ? `apt-${name}` : `apt-${name}-${architecture}`);
  for (const part of ["lists/partial", "cache/archives/partial"])
    mkdirSync(join(base, part), { recursive: true });
  writeFileSync(join(base, "status"), "");
  const source = `deb [signed-by=${keyring} arch=${architecture}] ${mirror} ${name} main\n`;
  writeFileSync(join(base, "sources.list"), source);
  const options = [
    `Dir::Etc::sourcelist=${join(base, "sources.list")}`,
    "Dir::Etc::sourceparts=-",
    `Dir::State::lists=${join(base, "lists")}`,
    `Dir::State::status=${join(base, "status")}`,
    `Dir::Cache=${join(base, "cache")}`,
    `APT::Architecture=${architecture}`,
    `APT::Architectures::=${architecture}`,
    "Acquire::Languages=none",
    "Acquire::Retries=3",
    "APT::Sandbox::User=root",
    "APT::Get::List-Cleanup=false",
  ].flatMap((option) => ["-o", option]);
  await apt(`read the package list of ${name}`, [...options, "update", "-q", "--error-on=any"], base);
  return new Suite(name, options);
}

/**
 * @param {string} debs directory of package files
 * @param {string} target
 */
async function unpack(debs, target) {
  for (const file of readdirSync(debs).filter((name) => name.endsWith(".deb"))) {
    await command(`unpack ${file}`, "dpkg", ["-x", join(debs, file), target], target);
  }
}

/** The Debian mirror this machine is configured with, or $EROFS_NBD_LAB_MIRROR. */
async function debianMirror() {
  const own = process.env["EROFS_NBD_LAB_MIRROR"];
  if (own !== undefined && own !== "") return own;
  const system = readOsRelease();
  if (process.arch !== "x64" || !existsSync("/usr/bin/apt-get")) {
    throw new LabError("ERR_LAB_UNSUPPORTED", "cannot fetch kernels: this is not Debian on x86-64", {
      hint: HOST_HINT,
    });
  }
  const codename = system.get("VERSION_CODENAME") ?? "";
  const { stdout } = await run(
    "apt-get",
    ["indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
    {
      maxBuffer: 1 << 24,
    },
  );
  const entries = stdout.split("\n").map((line) => line.split(" "));
  const suites = new Set([codename, "stable", "testing", "unstable", "sid"]);
  const found = entries.find(
    ([, release, component]) => suites.has(release ?? "") && component === "main",
  )?.[0];
  if (system.get("ID") !== "debian" || found === undefined) {
    throw new LabError(
      "ERR_LAB_UNSUPPORTED",
      "cannot fetch kernels: no Debian mirror in this machine's apt sources",
      {
        hint: "set EROFS_NBD_LAB_MIRROR to a Debian mirror's address, or use --host",
      },
    );
  }
  return found;
}

/** @returns {Map<string, string>} */
function readOsRelease() {
  const text = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  const pairs = [...text.matchAll(/^([A-Z_]+)="?([^"\n]*)"?$/gm)];
  return new Map(pairs.map((pair) => /** @type {const} */ ([pair[1] ?? "", pair[2] ?? ""])));
}

/**
 * @param {string} what for the message, after `cannot`
 * @param {readonly string[]} args
 * @param {string} cwd
 */
function apt(what, args, cwd) {
  return command(what, "apt-get", args, cwd);
}

/**
 * Runs a program to its end; its last error line becomes the reason when it fails.
 * @param {string} what for the message, after `cannot`
 * @param {string} file
 * @param {readonly string[]} args
 * @param {string} cwd
 */
export async function command(what, file, args, cwd) {
  try {
    const { stdout } = await run(file, args, {
      cwd,
      maxBuffer: 1 << 24,
      timeout: COMMAND_LIMIT_MS,
      env: { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive" },
    });
    return stdout;
  } catch (error) {
    const { stderr, message } = /** @type {Error & { stderr?: string }} */ (error);
    const lines = (stderr ?? "").split("\n").filter((line) => line.trim() !== "");
    // apt's last word is often only "some files failed"; the line before says which and why.
    const reason =
      lines.find((line) => /^[EW]: Failed/.test(line)) ??
      lines.findLast((line) => line.startsWith("E:")) ??
      lines.at(-1) ??
      message;
    throw new LabError("ERR_LAB_PREPARE", `cannot ${what}: ${reason}`, { cause: error });
  }
}
