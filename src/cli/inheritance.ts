/**
 * What a process that has become a manager gives up before it starts others, so that none of them is born with it: workers could
 * make up for it only on the thread that they begin with.
 *
 * For processes of our own: what a program with an `NbdManager` has is not ours to take.
 */
import { check, joinSessionKeyring, setNoNewPrivileges } from "../sys/libc.ts";

/**
 * No right can be gained by execve(2) any more, and no key of whoever started us is at hand: a worker would have them even as
 * another user, because what is in a session keyring goes by possession (session-keyring(7)). This matters under systemd as well, whose
 * KeyringMode=private keeps others' keys from a service, but gives it and its workers one keyring. So an image that only
 * the keys of a session open (AFS; fscrypt's first version) is not for a manager, whoever started it. @throws SystemError
 */
export function renounceRights(): void {
  check("prctl(PR_SET_NO_NEW_PRIVS)", setNoNewPrivileges());
  // ENOSYS of a kernel without keys, EDQUOT, or EPERM of a container's filter: then there is none, or it stays.
  joinSessionKeyring();
}
