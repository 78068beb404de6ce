/**
 * Writes and removes the files of `install-units`: all of them or none, each one atomically, and never a file that
 * install-units has not written.
 *
 * Checks every path, and that it can be written (places.ts), before it changes the first. Under a prefix the running
 * system is neither inspected nor changed.
 */
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  lstatSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { explainFileError } from "../../control/run-dir.ts";
import { makeDirectories } from "../../control/run-dir-trust.ts";
import { ErofsNbdError, hasCode } from "../../errors.ts";
import {
  mountedLater,
  NOWHERE,
  nearestDirectory,
  placeOf,
  readOnlyOf,
  strayAbove,
  targetOf,
} from "./places.ts";
import { MARK, MOUNT_HELPER, type SystemFile } from "./service-files.ts";

/** What was done with a file, or would be done in a dry run. */
export interface FileAction {
  readonly path: string;
  readonly action: "written" | "unchanged" | "removed" | "absent" | "left alone";
  /** The reason, unless it is obvious. */
  readonly reason: string | null;
}

type Plan = FileAction & { readonly file: SystemFile };

/** The mode of created directories, independent of the umask: readable by all, writable by root. */
const DIRECTORY_MODE = 0o755;

/** The names of npm's link to the mount helper and of its target. */
const HELPER_NAMES = new Set(["mount.erofs.nbd", "mount-helper.cjs", "mount-helper.js"]);

/** Writes files that are missing or differ. @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_SYSCALL */
export function writeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  return carryOut(
    files.flatMap((file) => planFile(prefix, file)),
    dryRun,
  );
}

/** Removes files that install-units has written. @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_SYSCALL */
export function removeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  const plans = files.flatMap((file) => {
    const { path, formerPath } = file;
    if (formerPath === undefined) return [planRemoval(placeOf(prefix, path, "remove"), file)];
    const former = planRemoval(placeOf(prefix, formerPath, "remove"), file);
    // install-units never writes to such a path.
    if (strayAbove(prefix, path) !== undefined) return [former];
    const plan = planRemoval(placeOf(prefix, path, "remove"), file);
    return former.action === "absent" ? [plan] : [plan, former];
  });
  return carryOut(plans, dryRun);
}

function carryOut(plans: readonly Plan[], dryRun: boolean): FileAction[] {
  const changes = plans.filter(({ action }) => action === "written" || action === "removed");
  if (!dryRun) {
    for (const { action, path } of changes)
      attempt(action === "written" ? "write" : "remove", path, () =>
        accessSync(nearestDirectory("/", path), constants.W_OK),
      );
    for (const { action, path, file } of changes) {
      if (action === "written") attempt("write", path, () => put(path, file));
      else attempt("remove", path, () => rmSync(path));
    }
  }
  return plans.map(({ file: _, ...action }) => action);
}

/** If its path is unsuitable, a unit goes to its former path, and the mount helper is left out. */
function planFile(prefix: string, file: SystemFile): Plan[] {
  const { path, formerPath } = file;
  const stray = formerPath === undefined ? undefined : strayAbove(prefix, path);
  if (formerPath !== undefined && stray !== undefined) return [planInstead(prefix, file, formerPath, stray)];
  const plan = planWriting(placeOf(prefix, path, "write"), file, prefix);
  if (plan.action === "written") {
    const obstacle = readOnlyOf(prefix, path);
    if (path === MOUNT_HELPER && obstacle !== undefined)
      return [{ ...plan, action: "left alone", reason: obstacle }];
    const why = obstacle ?? mountedLater(prefix, path);
    if (formerPath !== undefined && why !== undefined) return [planInstead(prefix, file, formerPath, why)];
  }
  return [plan, ...planFormer(prefix, plan)];
}

function planInstead(prefix: string, file: SystemFile, path: string, reason: string): Plan {
  return { ...planWriting(placeOf(prefix, path, "write"), file, prefix), reason };
}

function planWriting(path: string, file: SystemFile, prefix: string): Plan {
  const found = look(path);
  if (found.kind === "nothing") return { path, file, action: "written", reason: null };
  if (found.kind === "ours") {
    const isSame = found.text === file.text && found.mode === file.mode;
    return { path, file, action: isSame ? "unchanged" : "written", reason: null };
  }
  if (found.kind === "link" && file.path === MOUNT_HELPER && isToHelper(found)) {
    const { words, target } = found;
    const keep = target !== NOWHERE && isNpms(path, words) && findsNode(prefix);
    const to = target === NOWHERE ? `${words}, which does not exist` : target;
    const reason = keep ? `npm's own, it leads to ${to}` : `instead of a link to ${to}`;
    return { path, file, action: keep ? "left alone" : "written", reason };
  }
  const masked = isMask(found);
  throw new ErofsNbdError(
    "ERR_BAD_ARGUMENT",
    `cannot write ${path}: ${masked ? "it is masked" : "it was not written by install-units"}`,
    {
      hint: masked
        ? "systemctl unmask it first"
        : "move it away, and keep local settings in drop-ins (systemctl edit)",
    },
  );
}

/** A dangling link is judged by its text: the Node.js that created it has been removed with its packages. */
function isToHelper({ words, target }: Link): boolean {
  if (target !== NOWHERE) return /\/mount-helper\.c?js$/.test(target);
  return HELPER_NAMES.has(basename(words));
}

/** Whether npm has created the link: /usr/sbin may be /usr/bin, and npm fails if one of its links has been removed. */
function isNpms(path: string, words: string): boolean {
  const bin = realpathSync(dirname(path));
  const modules = join(dirname(bin), "lib/node_modules/");
  return basename(bin) === "bin" && resolve(bin, words).startsWith(modules);
}

/** mount(8) runs its helpers without PATH: `env node` in the first line then searches only these two. */
function findsNode(prefix: string): boolean {
  return ["/usr/bin/node", "/bin/node"].some((path) => existsSync(join(prefix, path)));
}

/**
 * Plans what happens to the file at its former path. One that install-units wrote is removed, once. If the new path has
 * a file already, the one at the former path is a copy made by `systemctl edit --full`, and belongs to the
 * administrator.
 */
function planFormer(prefix: string, { file, action }: Plan): Plan[] {
  if (file.formerPath === undefined) return [];
  const path = placeOf(prefix, file.formerPath, "write");
  const found = look(path);
  if (found.kind === "nothing") return [];
  const isFresh = action === "written" && look(join(prefix, file.path)).kind === "nothing";
  if (found.kind === "ours" && isFresh)
    return [{ path, file, action: "removed", reason: `it is in ${dirname(file.path)} now` }];
  const reason = isMask(found) ? "it is masked" : "it was not written by install-units and takes precedence";
  return [{ path, file, action: "left alone", reason }];
}

function planRemoval(path: string, file: SystemFile): Plan {
  const found = look(path);
  if (found.kind === "nothing") return { path, file, action: "absent", reason: null };
  if (found.kind === "ours") {
    const obstacle = readOnlyOf("/", path);
    return {
      path,
      file,
      action: obstacle === undefined ? "removed" : "left alone",
      reason: obstacle ?? null,
    };
  }
  const reason = isMask(found) ? "it is masked" : "it was not written by install-units";
  return { path, file, action: "left alone", reason };
}

/** The text of a symbolic link, and the path that it resolves to. */
interface Link {
  readonly kind: "link";
  readonly words: string;
  readonly target: string;
}

type Found =
  | { readonly kind: "nothing" | "foreign" }
  | Link
  | { readonly kind: "ours"; readonly text: string; readonly mode: number };

const isMask = (found: Found): boolean => found.kind === "link" && found.target === "/dev/null";

function look(path: string): Found {
  const found = attempt("look at", path, () => lstatSync(path, { throwIfNoEntry: false }));
  if (found === undefined) return { kind: "nothing" };
  if (found.isSymbolicLink()) return { kind: "link", words: readlinkSync(path), target: targetOf(path) };
  if (!found.isFile()) return { kind: "foreign" };
  const text = attempt("read", path, () => readFileSync(path, "utf8"));
  return text.includes(MARK) ? { kind: "ours", text, mode: found.mode & 0o777 } : { kind: "foreign" };
}

/** Writes to a temporary file and renames it: systemd may be reading the old one. */
function put(path: string, { text, mode }: SystemFile): void {
  makeDirectory(dirname(path));
  const draft = `${path}.${process.pid}~`;
  try {
    writeFileSync(draft, text, { mode, flag: "wx" });
    // The umask has been applied to the mode.
    chmodSync(draft, mode);
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

/** Creates a directory and its parents with the same mode for any umask, such as 0 or 077. */
function makeDirectory(path: string): void {
  for (const made of makeDirectories(path, DIRECTORY_MODE)) chmodSync(made, DIRECTORY_MODE);
}

function attempt<T>(what: string, path: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    const denied = hasCode(error, "EACCES", "EPERM");
    throw new ErofsNbdError(
      denied ? "ERR_PERMISSION" : "ERR_SYSCALL",
      `cannot ${what} ${path}: ${explainFileError(error)}`,
      { hint: denied ? "run it with sudo" : undefined, cause: error },
    );
  }
}
