/**
 * Writing and removing the files of `install-units`: all of them or none, whole or not at all, and never anybody
 * else's.
 *
 * Looks at every place, and asks whether it can be written, before it touches the first (places.ts). Under a prefix
 * nothing of the running system is asked, told or touched.
 */
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { explainFileError } from "../../control/run-dir.ts";
import { ErofsNbdError } from "../../errors.ts";
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

/** What was done with a file, or would be. */
export interface FileAction {
  readonly path: string;
  readonly action: "written" | "unchanged" | "removed" | "absent" | "left alone";
  /** Why, where that is not plain. */
  readonly reason: string | null;
}

type Plan = FileAction & { readonly file: SystemFile };

/** Of every directory that is made, whatever the umask: what is in them is for all to read and for root to write. */
const DIRECTORY_MODE = 0o755;

/** What npm's link to the mount helper is called, and what that leads to. */
const HELPER_NAMES = new Set(["mount.erofs.nbd", "mount-helper.cjs", "mount-helper.js"]);

/** Writes what is not there, or is there in another version. @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_SYSCALL */
export function writeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  return carryOut(
    files.flatMap((file) => planFile(prefix, file)),
    dryRun,
  );
}

/** Removes what we wrote. @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_SYSCALL */
export function removeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  const plans = files.flatMap((file) => {
    const { path, formerPath } = file;
    if (formerPath === undefined) return [planRemoval(placeOf(prefix, path, "remove"), file)];
    const former = planRemoval(placeOf(prefix, formerPath, "remove"), file);
    // Nothing of ours was ever put there.
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

/** Where its place is none for it, a unit goes to the former one, and the mount helper is done without. */
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
    const to = target === NOWHERE ? `${words}, which is not there` : target;
    const reason = keep ? `npm's own, it leads to ${to}` : `instead of a link to ${to}`;
    return { path, file, action: keep ? "left alone" : "written", reason };
  }
  const masked = isMask(found);
  throw new ErofsNbdError(
    "ERR_BAD_ARGUMENT",
    `cannot write ${path}: ${masked ? "it is masked" : "somebody else has written it"}`,
    {
      hint: masked
        ? "systemctl unmask it first"
        : "move it away; your own settings belong into systemctl edit",
    },
  );
}

/** Of one that leads nowhere its words must do: the Node that it was made with, and all that was installed there, are gone. */
function isToHelper({ words, target }: Link): boolean {
  if (target !== NOWHERE) return /\/mount-helper\.c?js$/.test(target);
  return HELPER_NAMES.has(basename(words));
}

/** Whether npm has put the link there: /usr/sbin may be /usr/bin, and npm refuses to go on where a link of its own is gone. */
function isNpms(path: string, words: string): boolean {
  const bin = realpathSync(dirname(path));
  const modules = join(dirname(bin), "lib/node_modules/");
  return basename(bin) === "bin" && resolve(bin, words).startsWith(modules);
}

/** mount(8) gives its helpers no PATH: «env node» in a first line then looks in these two alone. */
function findsNode(prefix: string): boolean {
  return ["/usr/bin/node", "/bin/node"].some((path) => existsSync(join(prefix, path)));
}

/**
 * What is to become of the file in its former place. Ours goes, once: where the new place has one already, this one
 * is a copy that `systemctl edit --full` made, and an administrator's like any other.
 */
function planFormer(prefix: string, { file, action }: Plan): Plan[] {
  if (file.formerPath === undefined) return [];
  const path = placeOf(prefix, file.formerPath, "write");
  const found = look(path);
  if (found.kind === "nothing") return [];
  const isFresh = action === "written" && look(join(prefix, file.path)).kind === "nothing";
  if (found.kind === "ours" && isFresh)
    return [{ path, file, action: "removed", reason: `it is in ${dirname(file.path)} now` }];
  const reason = isMask(found) ? "it is masked" : "somebody else has written it, and it counts more";
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
  const reason = isMask(found) ? "it is masked" : "somebody else has written it";
  return { path, file, action: "left alone", reason };
}

/** What a link says, and where it leads in the end. */
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

/** Whole under another name first: a service manager may be reading it just now. */
function put(path: string, { text, mode }: SystemFile): void {
  makeDirectory(dirname(path));
  const draft = `${path}.${process.pid}~`;
  try {
    writeFileSync(draft, text, { mode, flag: "wx" });
    // What the umask took away.
    chmodSync(draft, mode);
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

/** With those above it. A umask of 0 must leave none of them to everybody, one of 077 none to root alone. */
function makeDirectory(path: string): void {
  const first = mkdirSync(path, { recursive: true, mode: DIRECTORY_MODE });
  if (first === undefined) return;
  for (let made = path; made.length >= first.length; made = dirname(made)) chmodSync(made, DIRECTORY_MODE);
}

function attempt<T>(what: string, path: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    const denied = ["EACCES", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "");
    throw new ErofsNbdError(
      denied ? "ERR_PERMISSION" : "ERR_SYSCALL",
      `cannot ${what} ${path}: ${explainFileError(error)}`,
      { hint: denied ? "run it with sudo" : undefined, cause: error },
    );
  }
}
