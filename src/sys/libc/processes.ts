/** System calls on processes: pidfds, capabilities, prctl(2), execv(3), signals. */
import { ERRNO } from "../errno.ts";
import { bind, result, systemCall } from "./bind.ts";

const c = {
  getuid: bind("uint32_t geteuid()"),
  prctl: bind("int prctl(int, uint64_t, uint64_t, uint64_t, uint64_t)"),
  signal: bind("int64_t signal(int, int64_t)"),
  capset: bind("int capset(void *, void *)"),
  execv: bind("int execv(const char *, const char **)"),
};

const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;

/** A descriptor that becomes readable when a process has exited (pidfd_open(2), Linux 5.3). Close-on-exec. */
export const pidfdOpen = (pid: number): number => result(systemCall(SYS_PIDFD_OPEN, pid));

/** Sends a signal to exactly the process behind such a descriptor (pidfd_send_signal(2), Linux 5.1). */
export const pidfdSendSignal = (pidFd: number, signal: number): number =>
  result(systemCall(SYS_PIDFD_SEND_SIGNAL, pidFd, signal));

/** include/uapi/asm-generic/unistd.h has one number, x86 another (arch/x86/entry/syscalls/syscall_64.tbl). */
const SYS_KEYCTL: Readonly<Record<string, number>> = { x64: 250, arm64: 219, riscv64: 219, loong64: 219 };
const KEYCTL_JOIN_SESSION_KEYRING = 1;

/** Gives the calling thread and its children a new session keyring, empty and without a name (keyctl(2)). */
export const joinSessionKeyring = (): number => {
  const number = SYS_KEYCTL[process.arch];
  return number === undefined ? -ERRNO.ENOSYS : result(systemCall(number, KEYCTL_JOIN_SESSION_KEYRING, 0));
};

/** Neither this process nor its children can gain privileges by execve(2) any more (prctl(2), PR_SET_NO_NEW_PRIVS). */
export const setNoNewPrivileges = (): number => result(c.prctl(38, 1, 0, 0, 0));

/** Processes of the same user may not trace this one, and it writes no core (prctl(2), PR_SET_DUMPABLE). */
export const setUndumpable = (): number => result(c.prctl(4, 0, 0, 0, 0));
const LINUX_CAPABILITY_VERSION_3 = 0x2008_0522;

/** Clears all capabilities of the calling thread, inheritable and ambient ones included (capset(2)). */
export const clearCapabilities = (): number =>
  result(c.capset(Uint32Array.of(LINUX_CAPABILITY_VERSION_3, 0), new Uint32Array(6)));

/** Runs another program in this process (execv(3)); returns only on failure. The first word is its absolute path. */
export const execute = (words: readonly string[]): number => result(c.execv(words[0], [...words, null]));
const SIG_IGN = 1;

/** Ignores a signal (signal(2), SIG_IGN). A handler is removed. */
export const ignoreSignal = (signal: number): number => result(c.signal(signal, SIG_IGN));

/** The effective user id of this process. */
export const effectiveUid = (): number => c.getuid();
