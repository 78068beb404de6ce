// @ts-check
/**
 * The lab's one error class: a line for people (`cannot WHAT: WHY`), an optional hint and a stable code.
 *
 * Thrown by every file of the lab; the runner and the command line print `message` and `hint`. It never carries
 * product errors: the lab knows nothing of src/.
 */

/**
 * Codes: `ERR_LAB_UNSUPPORTED` this machine can't boot the lab's kernels, `ERR_LAB_PREPARE` a download or an
 * unpacking failed, `ERR_LAB_ARGUMENT` the caller's mistake, `ERR_LAB_BOOT` the guest died before it reported, `ERR_LAB_EMULATOR`
 * so it did, and by the emulator's fault.
 * @typedef {"ERR_LAB_UNSUPPORTED" | "ERR_LAB_PREPARE" | "ERR_LAB_ARGUMENT" | "ERR_LAB_BOOT" | "ERR_LAB_EMULATOR"}
 * LabErrorCode
 */

/** An error of the kernel lab. */
export class LabError extends Error {
  /**
   * @param {LabErrorCode} code
   * @param {string} message `cannot WHAT: WHY`, no final period
   * @param {{ hint?: string, cause?: unknown }} [options]
   */
  constructor(code, message, options = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "LabError";
    this.code = code;
    this.hint = options.hint;
  }
}

/** What to do when the lab itself can't run here. */
export const HOST_HINT = "run with --host on a machine whose own kernel has nbd, or use Debian on x86-64";
