/**
 * The lab's public shapes. boot.mjs is plain JavaScript, so that the demo, the runner and the command line need no
 * build; its types live here and in boot.d.mts.
 */

/** A kernel of the lab: its series, with one processor, or with several (`-smp`). */
export type KernelSeries = "6.1" | "6.12" | "7.2" | "6.12-smp";

/** What to boot and what to run in it. */
export interface BootOptions {
  readonly kernel: KernelSeries;
  /** Program and arguments, run as root with `cwd` as working directory; no shell in between. */
  readonly command: readonly string[];
  /**
   * The command becomes process 1, and everything after that is its own: it leaves its exit status in the file `status`
   * of $EROFS_NBD_LAB_SHARE, the kernel log in `dmesg`, and powers off.
   */
  readonly asInit?: boolean;
  /** Environment of the command, beside PATH, HOME, LANG, USER, TERM and EROFS_NBD_LAB_*. */
  readonly env?: Readonly<Record<string, string>>;
  /** Working directory in the guest; default: the project. */
  readonly cwd?: string;
  /** The whole guest's time limit, booting included; default 120 000. */
  readonly timeoutMs?: number;
  /**
   * How long a kernel may take until its command starts, in ms; default 180 000. One that takes longer is started again,
   * twice at most.
   */
  readonly startTimeoutMs?: number;
  /** Default 2048; only touched pages cost host memory. */
  readonly memoryMiB?: number;
  /** Modules loaded before the command runs; default nbd and erofs. */
  readonly modules?: readonly string[];
  /** Kept after the guest is gone; default: a temporary directory that is removed. No blanks or commas in it. */
  readonly outputDir?: string;
  /** Called with what the command prints, as it prints it. */
  readonly onOutput?: (stream: "stdout" | "stderr", text: string) => void;
  /** Called with each message about preparing (downloads). */
  readonly onProgress?: (message: string) => void;
  /** Ends the guest at once. */
  readonly signal?: AbortSignal;
}

/** What a guest left behind. */
export interface BootResult {
  readonly kernel: KernelSeries;
  /** As `uname -r` said. */
  readonly version: string;
  /** Of the command; 128 + n after signal n. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The guest's kernel log. */
  readonly dmesg: string;
  /** From starting the kernel to starting the command, in ms of host time. */
  readonly bootMs: number;
  /** From starting the kernel to its end. */
  readonly totalMs: number;
  /** Where the files are, or were when it was temporary. */
  readonly outputDir: string;
}
