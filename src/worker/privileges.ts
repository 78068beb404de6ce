/**
 * A worker's way out of root: everything it needs has been opened for it, so it keeps no right of its own.
 *
 * Called once by main.ts, after all code is loaded (which may lie where only root can read) and before the first message.
 * A manager that is not root may still have capabilities, which its workers shed. Nothing is taken on trust: what the kernel says
 * of every thread decides.
 */
import { readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { check, effectiveUid, ignoreSignal, setNoNewPrivileges, setUndumpable } from "../sys/libc.ts";
import { shedCapabilities } from "./shed-capabilities.ts";

/** The account that `install-units` makes; where it is missing, the kernel's own nobody (fs.overflowuid). */
const ACCOUNT = "erofs-nbd";
const NOBODY = 65_534;
const TASKS = "/proc/self/task";

export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/** Which account workers run under, by the text of passwd(5). Root is never one. */
export function chooseAccount(passwd: string): Account {
  for (const line of passwd.split("\n")) {
    const [name, , uid, gid] = line.split(":");
    if (name !== ACCOUNT || !/^\d+$/.test(uid ?? "") || !/^\d+$/.test(gid ?? "")) continue;
    if (Number(uid) > 0 && Number(gid) > 0) return { uid: Number(uid), gid: Number(gid) };
  }
  return { uid: NOBODY, gid: NOBODY };
}

/**
 * Keeps Node from opening its inspector at SIGUSR1: a TCP port of the loopback through which any local user could run code in
 * here. To be called while only root can send us signals. Ignored, and not heard: a flood of them wakes nobody.
 * @throws SystemError
 */
export function refuseInspector(): void {
  check("signal(SIGUSR1)", ignoreSignal(constants.signals.SIGUSR1));
}

/**
 * Becomes that account, for good: no user, group or capability of root is left, none can be gained, and other processes of the
 * account may not look inside. Capabilities go when the last uid of root does, but for the inheritable ones, which are worth nothing
 * under no_new_privs, and unless root was told otherwise (capabilities(7), SECBIT_NO_SETUID_FIXUP).
 * @throws Error, SystemError when that does not work: a worker that cannot let go must not serve
 */
export function dropPrivileges(): void {
  check("prctl(PR_SET_NO_NEW_PRIVS)", setNoNewPrivileges());
  let account: Account | undefined;
  if (effectiveUid() === 0) {
    account = chooseAccount(readPasswd());
    process.setgroups?.([]);
    process.setgid?.(account.gid);
    process.setuid?.(account.uid);
  } else if (rightsLeft(undefined) !== undefined) shedCapabilities();
  const left = rightsLeft(account);
  if (left !== undefined) throw new Error(`cannot serve with rights that a worker must not have: ${left}`);
  check("prctl(PR_SET_DUMPABLE)", setUndumpable());
}

/**
 * What a thread has that it must not have, by the text of its `status` (proc_pid_status(5)); undefined: nothing.
 * `account` is the one it must have become.
 */
export function describeRights(status: string, account: Account | undefined): string | undefined {
  const ids = account === undefined ? [] : [["Uid", account.uid] as const, ["Gid", account.gid] as const];
  const capabilities = ["CapPrm", "CapEff", "CapAmb"].map((name) => [name, 0] as const);
  for (const [name, wanted] of [...ids, ...capabilities]) {
    const value = new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "unknown";
    // An id is there four times: real, effective, saved, and that of the file system. Sets are hexadecimal.
    const isWanted = value.split(/\s+/).every((part) => /^\d+$/.test(part) && Number(part) === wanted);
    if (!isWanted) return `${name} is ${value.replaceAll("\t", " ")}`;
  }
  return undefined;
}

/** The first such right of any thread. @throws Error where there is no /proc */
function rightsLeft(account: Account | undefined): string | undefined {
  for (const thread of readdirSync(TASKS)) {
    const status = readStatus(thread);
    const rights = status === undefined ? undefined : describeRights(status, account);
    if (rights !== undefined) return `${rights} in thread ${thread}`;
  }
  return undefined;
}

function readPasswd(): string {
  try {
    return readFileSync("/etc/passwd", "utf8");
  } catch {
    // A minimal system without accounts.
    return "";
  }
}

/** Undefined for a thread that has just ended. */
function readStatus(thread: string): string | undefined {
  try {
    return readFileSync(`${TASKS}/${thread}/status`, "utf8");
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}
