/**
 * Writing and removing the files of `install-units`: all of them or none, whole or not at all, and never anybody else's.
 *
 * Looks at every place before it touches the first. Under a prefix nothing of the running system is asked or told.
 */
import { lstatSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { ErofsNbdError } from "../errors.ts";
import { explainFileError } from "../manager/run-dir.ts";
import { MARK, type SystemFile } from "./service-files.ts";

/** What was done with a file, or would be. */
export interface FileAction {
  readonly path: string;
  readonly action: "written" | "unchanged" | "removed" | "absent" | "left alone";
  /** Why, where that is not plain. */
  readonly reason: string | null;
}

type Plan = FileAction & { readonly file: SystemFile };

/** Writes what is not there, or is there in another version. @throws ErofsNbdError ERR_BAD_ARGUMENT, ERR_PERMISSION, ERR_SYSCALL */
export function writeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  const plans = files.map((file) => planWriting(join(prefix, file.path), file));
  if (!dryRun) {
    for (const { action, path, file } of plans)
      if (action === "written") attempt("write", path, () => put(path, file));
  }
  return plans.map(({ file: _, ...action }) => action);
}

/** Removes what we wrote. @throws ErofsNbdError ERR_PERMISSION, ERR_SYSCALL */
export function removeFiles(prefix: string, files: readonly SystemFile[], dryRun: boolean): FileAction[] {
  const actions = files.map((file) => planRemoval(join(prefix, file.path)));
  if (!dryRun) {
    for (const { action, path } of actions)
      if (action === "removed") attempt("remove", path, () => rmSync(path));
  }
  return actions;
}

function planWriting(path: string, file: SystemFile): Plan {
  const found = look(path);
  if (found.kind === "nothing") return { path, file, action: "written", reason: null };
  if (found.kind === "ours") {
    const isSame = found.text === file.text && found.mode === file.mode;
    return { path, file, action: isSame ? "unchanged" : "written", reason: null };
  }
  if (found.kind === "link" && found.target.endsWith("/mount-helper.js"))
    return { path, file, action: "left alone", reason: `it leads to ${found.target} already` };
  const isMask = found.kind === "link" && found.target === "/dev/null";
  throw new ErofsNbdError(
    "ERR_BAD_ARGUMENT",
    `Cannot write ${path}: ${isMask ? "it is masked" : "somebody else has written it"}`,
    {
      hint: isMask
        ? "systemctl unmask it first"
        : "move it away; your own settings belong into systemctl edit",
    },
  );
}

function planRemoval(path: string): FileAction {
  const found = look(path);
  if (found.kind === "nothing") return { path, action: "absent", reason: null };
  if (found.kind === "ours") return { path, action: "removed", reason: null };
  return { path, action: "left alone", reason: "somebody else has written it" };
}

type Found =
  | { readonly kind: "nothing" | "foreign" }
  | { readonly kind: "link"; readonly target: string }
  | { readonly kind: "ours"; readonly text: string; readonly mode: number };

function look(path: string): Found {
  const found = attempt("look at", path, () => lstatSync(path, { throwIfNoEntry: false }));
  if (found === undefined) return { kind: "nothing" };
  if (found.isSymbolicLink()) return { kind: "link", target: targetOf(path) };
  if (!found.isFile()) return { kind: "foreign" };
  const text = attempt("read", path, () => readFileSync(path, "utf8"));
  return text.includes(MARK) ? { kind: "ours", text, mode: found.mode & 0o777 } : { kind: "foreign" };
}

function targetOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return "nowhere";
  }
}

/** Whole under another name first: a service manager may be reading it just now. */
function put(path: string, { text, mode }: SystemFile): void {
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}~`;
  try {
    writeFileSync(draft, text, { mode, flag: "wx" });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
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
