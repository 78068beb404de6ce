// @ts-check
/**
 * Loaded into every process of a manager's by NODE_OPTIONS: writes which session keyring the process was born with, by
 * its serial number, to a file named after the program and the pid, in the directory that TELL_KEYRING names.
 */
import { writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import koffi from "koffi";

const KEYCTL = process.arch === "x64" ? 250 : 219;
const KEYCTL_GET_KEYRING_ID = 0;
const KEY_SPEC_SESSION_KEYRING = -3;

const syscall = koffi.load(null).func("int64_t syscall(int64_t, int64_t, int64_t, int64_t)");
const serial = syscall(KEYCTL, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
const program = basename(dirname(process.argv[1] ?? "")); // "cli" or "worker"
writeFileSync(join(process.env["TELL_KEYRING"] ?? "", `${program}-${process.pid}`), String(serial));
