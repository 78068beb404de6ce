/**
 * A worker's way out of root: everything it needs has been opened for it, so it keeps no right of its own.
 *
 * Called once by main.ts, after all code is loaded (which may lie where only root can read) and before the first message.
 * A manager that is not root has nothing to give up; its workers only promise not to gain anything.
 */
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { check, effectiveUid, ignoreSignal, setNoNewPrivileges, setUndumpable } from "../sys/libc.ts";

/** The account that `install-units` makes; where it is missing, the kernel's own nobody (fs.overflowuid). */
const ACCOUNT = "erofs-nbd";
const NOBODY = 65_534;

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
 * Becomes that account, for good: no user, group or capability of root is left (capabilities(7): all sets are cleared when the
 * last uid of root goes), none can be gained, and other processes of the account may not look inside.
 * @throws Error, SystemError when that does not work: a worker that cannot let go must not serve
 */
export function dropPrivileges(): void {
  check("prctl(PR_SET_NO_NEW_PRIVS)", setNoNewPrivileges());
  if (effectiveUid() === 0) {
    const { uid, gid } = chooseAccount(readPasswd());
    process.setgroups?.([]);
    process.setgid?.(gid);
    process.setuid?.(uid);
  }
  check("prctl(PR_SET_DUMPABLE)", setUndumpable());
}

function readPasswd(): string {
  try {
    return readFileSync("/etc/passwd", "utf8");
  } catch {
    // A minimal system without accounts.
    return "";
  }
}
