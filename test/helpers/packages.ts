/**
 * Programs that tests need from the distribution, installed when they are missing and we are root. The test projects'
 * global setup calls it before anything runs, a test file for what it uses (in a guest: only to check).
 *
 * It adds packages through the machine's own apt; it never upgrades or removes anything.
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

/** A Debian package the tests know, and a program that is there when it is. */
const PROGRAM_OF = {
  "nbd-client": "nbd-client",
  "nbd-server": "nbd-server",
  nbdkit: "nbdkit",
  "libnbd-bin": "nbdinfo",
  "qemu-utils": "qemu-img",
  fio: "fio",
  "erofs-utils": "mkfs.erofs",
  zsh: "zsh",
  fish: "fish",
  "groff-base": "groff",
  systemd: "systemd-analyze",
  dmsetup: "dmsetup",
} as const;

/** A package that tests may ask for. */
export type TestPackage = keyof typeof PROGRAM_OF;

/** All of them. */
export const TEST_PACKAGES: readonly TestPackage[] = Object.keys(PROGRAM_OF) as TestPackage[];

const LIMIT_MS = 600_000;

/**
 * Sees to it that the packages' programs can be run.
 * @throws Error naming the missing packages when they can't be installed: not root, no apt, no network
 */
export function ensurePackages(packages: readonly TestPackage[]): void {
  const missing = missingPackages(packages);
  if (missing.length === 0) return;
  const what = missing.join(", ");
  const hint = `install them: apt-get install ${missing.join(" ")}`;
  if (process.getuid?.() !== 0 || !existsSync("/usr/bin/apt-get")) {
    throw new Error(`cannot run these tests: ${what} missing (${hint})`);
  }
  try {
    install(missing);
  } catch (error) {
    const { stderr } = error as { stderr?: Buffer };
    const reason = stderr?.toString().trim().split("\n").at(-1) ?? String(error);
    throw new Error(`cannot install ${what}: ${reason}`, { cause: error });
  }
  const still = missingPackages(missing);
  if (still.length > 0) throw new Error(`cannot run these tests: ${still.join(", ")} still missing`);
}

/** Those of the packages whose program isn't there. */
export function missingPackages(packages: readonly TestPackage[]): TestPackage[] {
  const directories = `${process.env["PATH"] ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`.split(":");
  return packages.filter((name) => !directories.some((path) => existsSync(join(path, PROGRAM_OF[name]))));
}

function install(packages: readonly TestPackage[]): void {
  const apt = (...args: string[]): void => {
    execFileSync("apt-get", ["-q", "-y", "-o", "DPkg::Lock::Timeout=300", ...args], {
      stdio: ["ignore", "ignore", "pipe"],
      timeout: LIMIT_MS,
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    });
  };
  const add = (): void => apt("install", "--no-install-recommends", ...packages);
  try {
    add();
  } catch {
    // Mostly a package list that is missing or too old; if it was something else the second try says so.
    apt("update");
    add();
  }
}
