/**
 * Writing and removing the files of `install-units`: all of them or none, whole or not at all, and never anybody else's.
 *
 * Looks at every place before it touches the first. Under a prefix nothing of the running system is asked, told or touched.
 */
import {
  chmodSync,
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
import { ErofsNbdError } from "../errors.ts";
import { explainFileError } from "../manager/run-dir.ts";
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

/** Where a link leads that leads to nothing. */
const NOWHERE = "nowhere";
/** What npm's link to the mount helper is called, and what that leads to. */
const HELPER_NAMES = new Set(["mount.erofs.nbd", "mount-helper.js"]);

/** Writes what is not there, or is there in another version. @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_SYSCALL */
export function writeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  const plans = files.flatMap((file) => {
    const plan = planWriting(placeOf(prefix, file.path, "write"), file, prefix);
    return [plan, ...planFormer(prefix, plan)];
  });
  if (!dryRun) carryOut(plans);
  return plans.map(({ file: _, ...action }) => action);
}

/** Removes what we wrote. @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_SYSCALL */
export function removeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  const plans = files.flatMap((file) => {
    const plan = planRemoval(placeOf(prefix, file.path, "remove"), file);
    if (file.formerPath === undefined) return [plan];
    const former = planRemoval(placeOf(prefix, file.formerPath, "remove"), file);
    return former.action === "absent" ? [plan] : [plan, former];
  });
  if (!dryRun) carryOut(plans);
  return plans.map(({ file: _, ...action }) => action);
}

function carryOut(plans: readonly Plan[]): void {
  for (const { action, path, file } of plans) {
    if (action === "written") attempt("write", path, () => put(path, file));
    if (action === "removed") attempt("remove", path, () => rmSync(path));
  }
}

/** The path of a file under the prefix. A link of a machine's image (etc -> /etc) may lead into this one. */
function placeOf(prefix: string, path: string, what: string): string {
  const top = resolve(prefix);
  const place = join(top, path);
  let above = dirname(place);
  while (above !== top && !isThere(above)) above = dirname(above);
  if (above === top) return place;
  const real = targetOf(above);
  const inside = join(realpathSync(top), "/");
  if (join(real, "/").startsWith(inside)) return place;
  throw new ErofsNbdError(
    "ERR_BAD_ARGUMENT",
    `Cannot ${what} ${place}: ${above} leads to ${real}, out of ${top}`,
    {
      hint: "put a directory there, or a relative link that stays inside",
    },
  );
}

function isThere(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch {
    // Whatever else it is shows when the file is looked at.
    return false;
  }
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
    `Cannot write ${path}: ${masked ? "it is masked" : "somebody else has written it"}`,
    {
      hint: masked
        ? "systemctl unmask it first"
        : "move it away; your own settings belong into systemctl edit",
    },
  );
}

/** Of one that leads nowhere its words must do: the Node that it was made with, and all that was installed there, are gone. */
function isToHelper({ words, target }: Link): boolean {
  if (target !== NOWHERE) return target.endsWith("/mount-helper.js");
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
 * What is to become of the file in its former place. Ours goes, once: where the new place has one already, this one is a copy that
 * `systemctl edit --full` made, and an administrator's like any other.
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
  if (found.kind === "ours") return { path, file, action: "removed", reason: null };
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

function targetOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return NOWHERE;
  }
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
      `Cannot ${what} ${path}: ${explainFileError(error)}`,
      { hint: denied ? "run it with sudo" : undefined, cause: error },
    );
  }
}
