/**
 * How a worker gives up root. Everything it needs has been opened for it, so it keeps no right of its own.
 *
 * Called once by main.ts, after all code has been loaded (it may lie where only root can read) and before the first
 * message. A manager that is not root may still have capabilities; its workers shed them. The worker then checks what
 * the kernel reports for each of its threads, and exits on a mismatch.
 */
import { readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { hasCode } from "../errors.ts";
import { check } from "../sys/libc/bind.ts";
import { effectiveUid, ignoreSignal, setNoNewPrivileges, setUndumpable } from "../sys/libc/processes.ts";
import { shedCapabilities } from "./shed-capabilities.ts";

/** The account that the installation creates. Without it: the kernel's nobody (fs.overflowuid). */
const ACCOUNT = "erofs-nbd";
const NOBODY = 65_534;
const TASKS = "/proc/self/task";

export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/** The account that workers run under, by the text of passwd(5). Never root. */
export function chooseAccount(passwd: string): Account {
  for (const line of passwd.split("\n")) {
    const [name, , uid, gid] = line.split(":");
    if (name !== ACCOUNT || !/^\d+$/.test(uid ?? "") || !/^\d+$/.test(gid ?? "")) continue;
    if (Number(uid) > 0 && Number(gid) > 0) return { uid: Number(uid), gid: Number(gid) };
  }
  return { uid: NOBODY, gid: NOBODY };
}

/**
 * Keeps Node from opening its inspector at SIGUSR1: a TCP port on the loopback through which any local user could run
 * code in this process. To be called while only root can send signals to it. The signal is ignored and has no handler,
 * so that many of them do not wake the process. @throws SystemError
 */
export function refuseInspector(): void {
  check("signal(SIGUSR1)", ignoreSignal(constants.signals.SIGUSR1));
}

/**
 * Switches to that account for good: no user, group or capability of root is left, none can be gained, and other
 * processes of the account cannot inspect this one. The kernel drops capabilities with the last uid of root, except
 * inheritable ones, which give nothing under no_new_privs, and unless SECBIT_NO_SETUID_FIXUP is set (capabilities(7)).
 * @throws Error, SystemError when a right is left: such a worker must not serve
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
 * The first right that a thread must not have, by the text of its `status` (proc_pid_status(5)); undefined if there is
 * none. `account` is the account that it must run under.
 */
export function describeRights(status: string, account: Account | undefined): string | undefined {
  const ids = account === undefined ? [] : [["Uid", account.uid] as const, ["Gid", account.gid] as const];
  const capabilities = ["CapPrm", "CapEff", "CapAmb"].map((name) => [name, 0] as const);
  for (const [name, wanted] of [...ids, ...capabilities]) {
    const value = new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "unknown";
    // Ids are listed four times: real, effective, saved, file system. Capability sets are hexadecimal.
    const isWanted = value.split(/\s+/).every((part) => /^\d+$/.test(part) && Number(part) === wanted);
    if (!isWanted) return `${name} is ${value.replaceAll("\t", " ")}`;
  }
  return undefined;
}

/** The first such right of any thread. @throws Error without /proc */
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
    // A minimal system has no accounts.
    return "";
  }
}

/** Undefined for a thread that has just ended. */
function readStatus(thread: string): string | undefined {
  try {
    return readFileSync(`${TASKS}/${thread}/status`, "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "ESRCH")) return undefined;
    throw error;
  }
}
