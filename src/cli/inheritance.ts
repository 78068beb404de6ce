/**
 * Drops what a manager process must not pass on to its children. A worker could drop it only on its first thread.
 *
 * Used by the manager command and `attach --foreground`, not by the library: an `NbdManager` must not change the
 * process of the program that it is part of.
 */
import { check } from "../sys/libc/bind.ts";
import { joinSessionKeyring, setNoNewPrivileges } from "../sys/libc/processes.ts";

/**
 * After this no execve(2) gains privileges, and the process has an empty session keyring. A worker would otherwise keep
 * the keys of the user who started the manager, even as another user, because keys in a session keyring are granted by
 * possession (session-keyring(7)). This matters under systemd, too: KeyringMode=private gives a service its own
 * keyring, but the workers would share it. Consequently an image that needs the keys of a session (AFS, fscrypt v1)
 * cannot be attached through a manager. @throws SystemError
 */
export function renounceRights(): void {
  check("prctl(PR_SET_NO_NEW_PRIVS)", setNoNewPrivileges());
  // Errors are ignored: ENOSYS from a kernel without keyrings, EDQUOT, or EPERM from a container's seccomp filter.
  joinSessionKeyring();
}
