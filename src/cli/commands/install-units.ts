/**
 * `install-units`: installs the systemd units and the mount helper for mount(8) and fstab.
 *
 * Prints each file and what was done with it; a second run changes nothing. It enables and starts nothing, but prints
 * the command that does. The files' contents are in install/service-files.ts.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import type { Command } from "commander";
import { hasSystemd, SERVICE, systemctl } from "../../control/reach/system-service.ts";
import { ErofsNbdError, invalidValue } from "../../errors.ts";
import { programFile } from "../../program-files.ts";
import { printable } from "../../text/printable.ts";
import { VERSION } from "../../version.ts";
import { requireRoot } from "../attach/preconditions.ts";
import type { CliContext } from "../context.ts";
import { type FileAction, removeFiles, writeFiles } from "../install/installation.ts";
import {
  IMAGE_SERVICE,
  MOUNT_HELPER,
  SYSUSERS_FILE,
  type SystemFile,
  serviceFiles,
} from "../install/service-files.ts";
import { findWeakness } from "../install/who-may-write.ts";
import { formatJson } from "../output.ts";

interface Options {
  readonly prefix?: string;
  readonly remove?: true;
  readonly force?: true;
  readonly dryRun?: true;
  readonly json?: true;
}

/** A program that was run to notify the system of the changes. */
interface Told {
  readonly command: string;
  readonly ok: boolean;
}

const PROGRAM_DIRECTORY = programFile("cli");

const HELP = `
Examples:
  sudo erofs-nbd install-units && sudo systemctl enable --now erofs-nbd
  erofs-nbd install-units --dry-run
  erofs-nbd install-units --prefix ./image      for the root directory of another system

Writes erofs-nbd.service (the manager), erofs-nbd@.service (an image attached at boot), the nbd module's settings, the
workers' user, and mount.erofs.nbd for mount(8) and fstab. Files that install-units has not written are not touched.

Root will run this Node.js and this program. If users other than root may change them or a directory above them, as in a
home directory (nvm, a clone), nothing is written: install both where only root may write. --force overrides this on a
machine whose users are trusted like root.`;

export function define(command: Command, context: CliContext): void {
  command
    .option("--prefix <DIR>", "write below DIR, without notifying the running system")
    .option("--remove", "remove the files again")
    .option("--force", "write even if users other than root may change the programs")
    .option("--dry-run", "print what would be done, and change nothing")
    .option("--json", "print what was done as an object")
    .addHelpText("after", HELP)
    .action((options: Options) => run(context, options));
}

async function run(context: CliContext, options: Options): Promise<void> {
  const { prefix, json } = options;
  const dryRun = options.dryRun === true;
  const remove = options.remove === true;
  if (prefix === "")
    throw invalidValue(
      "--prefix",
      "",
      "a directory",
      "--prefix / writes into this system without notifying it",
    );
  if (prefix === undefined && !dryRun) requireSystem(remove ? "remove the units" : "install the units");
  if (!remove) checkWhoMayWrite(context, resolve(prefix ?? "/"), options.force === true);
  const files = installedFiles();
  const told: Told[] = [];
  if (remove && !dryRun) told.push(...(await disable(prefix, files)));
  const actions = (remove ? removeFiles : writeFiles)(resolve(prefix ?? "/"), files, dryRun);
  const changed = actions.some(({ action }) => action === "written" || action === "removed");
  if (changed && prefix === undefined && !dryRun) {
    if (!remove) told.push(await tell("systemd-sysusers", [SYSUSERS_FILE]));
    told.push(await tell("systemctl", ["daemon-reload"]));
  }
  if (json)
    return context.print(formatJson({ prefix: resolve(prefix ?? "/"), dryRun, files: actions, told }));
  await context.print([...actions.map((one) => describe(one, dryRun)), ...told.map(describeTold)].join("\n"));
  for (const { command, ok } of told) if (!ok) context.note(`${command} failed`);
  if (prefix === undefined && !dryRun && !remove) context.note(`now: systemctl enable --now ${SERVICE}`);
}

/** @throws ErofsNbdError ERR_PERMISSION, ERR_NO_SYSTEMD */
function requireSystem(act: string): void {
  requireRoot("it writes files of the system");
  if (hasSystemd()) return;
  throw new ErofsNbdError("ERR_NO_SYSTEMD", `cannot ${act}: systemd does not run this machine`, {
    hint: "--prefix DIR writes the files for another machine; commands start a manager by themselves anyway",
  });
}

/** Under a prefix, programs that are not there yet are not checked. @throws ErofsNbdError ERR_BAD_ARGUMENT */
function checkWhoMayWrite(context: CliContext, top: string, force: boolean): void {
  for (const path of [process.execPath, `${PROGRAM_DIRECTORY}/main.cjs`]) {
    const weakness = findWeakness(join(top, path), top);
    if (weakness === undefined) continue;
    const why = `root would run ${path}, but ${weakness.who} may change ${weakness.path}`;
    if (!force)
      throw new ErofsNbdError("ERR_BAD_ARGUMENT", `cannot install the units: ${why}`, {
        hint: `${weakness.remedy}; or use --force if every such user is trusted like root`,
      });
    context.note(why);
  }
}

function installedFiles(): SystemFile[] {
  const installation = {
    nodePath: process.execPath,
    programDirectory: PROGRAM_DIRECTORY,
    systemdVersion: systemdVersion(),
    version: VERSION,
  };
  const hasHelper = existsSync(`${PROGRAM_DIRECTORY}/mount-helper.cjs`);
  return serviceFiles(installation).filter(({ path }) => path !== MOUNT_HELPER || hasHelper);
}

/**
 * Disables the units before they are removed: without the unit files systemctl would leave dangling links. Of the
 * template it disables every instance. The manager ends; devices stay attached, served by their workers. With --root=
 * systemctl does not contact systemd.
 */
async function disable(prefix: string | undefined, files: readonly SystemFile[]): Promise<Told[]> {
  // Throws before anything is changed if one of the files cannot be removed.
  const planned = removeFiles(resolve(prefix ?? "/"), files, true);
  const told: Told[] = [];
  for (const unit of [SERVICE, IMAGE_SERVICE]) {
    if (!planned.some(({ path, action }) => action === "removed" && basename(path) === unit)) continue;
    const root = prefix === undefined ? [] : [`--root=${resolve(prefix)}`];
    const now = prefix === undefined && unit === SERVICE ? ["--now"] : [];
    told.push(await tell("systemctl", [...root, "disable", ...now, unit]));
  }
  return told;
}

/** Parses "systemd 252 (252.38-1)"; 0 without systemctl. */
function systemdVersion(): number {
  const { stdout } = spawnSync("systemctl", ["--version"], { encoding: "utf8" });
  return Number(/^systemd (\d+)/.exec(stdout ?? "")?.[1] ?? 0);
}

async function tell(program: string, words: readonly string[]): Promise<Told> {
  const command = [program, ...words].join(" ");
  if (program === "systemctl") return { command, ok: (await systemctl(words))?.exitCode === 0 };
  return { command, ok: spawnSync(program, words, { stdio: "ignore" }).status === 0 };
}

function describe({ path, action, reason }: FileAction, dryRun: boolean): string {
  const words = { written: "write", removed: "remove" } as const;
  const isChange = action === "written" || action === "removed";
  const what = dryRun && isChange ? `would ${words[action]}` : action;
  return printable(`${what}: ${path}${reason === null ? "" : ` (${reason})`}`);
}

const describeTold = ({ command, ok }: Told): string => `${ok ? "ran" : "failed"}: ${command}`;
