/**
 * Reads one block of a device in a separate process that can be lost.
 *
 * A read from a device whose links are dead waits in the kernel, unkillable, for as long as the dead-connection
 * timeout, so this process must never touch the device. The read is O_DIRECT, so that it reaches the link and not the
 * page cache; opening the device also makes the kernel read its partition table.
 *
 * The readers are started by a shell that reads orders from a pipe: this process may be large, with the memory of
 * hundreds of links mapped, and a fork of its own would stop it for many milliseconds. The shell ends with the pipe.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { devicePath } from "./sysfs.ts";

export type ProbeResult = { readonly ok: true } | { readonly ok: false; readonly why: string };

const PROBE_BYTES = 4096;
/** How long a shell without orders is kept. */
const IDLE_MS = 3000;
/** Exit status of a shell that does not find a program. */
const NOT_FOUND = "127";

/**
 * An order is `NUMBER PATH`, an answer `NUMBER STATUS FIRST-LINE-OF-STDERR`; answers come in any order, as each
 * reader is a process of its own. It is not a child of this shell, which would reap it only when it starts the next
 * one.
 */
const SCRIPT = `
newline='
'
while read -r number path; do
  (
    {
      said=$(dd "if=$path" of=/dev/null bs=${PROBE_BYTES} count=1 iflag=direct status=none 2>&1)
      echo "$number $? \${said%%"$newline"*}"
    } &
  )
done
`;

type Shell = ChildProcessByStdio<Writable, Readable, null>;

export class Prober {
  /** Pending reads, by number. */
  readonly #pending = new Map<number, (result: ProbeResult) => void>();
  #shell: Shell | undefined;
  #idle: NodeJS.Timeout | undefined;
  #next = 0;

  /** Pid of the shell, if one runs. */
  get pid(): number | undefined {
    return this.#shell?.pid;
  }

  /**
   * Reads the first block. Waits for the end of the read or the signal; the reader may outlive the signal, because a
   * process inside such a read cannot be killed. Never rejects. `path` is for tests.
   */
  probe(index: number, signal: AbortSignal, path: string = devicePath(index)): Promise<ProbeResult> {
    if (signal.aborted) return Promise.resolve({ ok: false, why: "aborted" });
    const number = this.#next++;
    return new Promise((resolve) => {
      const settle = (result: ProbeResult): void => {
        signal.removeEventListener("abort", onAbort);
        if (this.#pending.delete(number)) resolve(result);
        if (this.#pending.size === 0) this.#rest();
      };
      const onAbort = (): void => settle({ ok: false, why: "the read did not come back in time" });
      this.#pending.set(number, settle);
      signal.addEventListener("abort", onAbort, { once: true });
      clearTimeout(this.#idle);
      try {
        this.#shell ??= this.#start();
        ref(this.#shell.stdout);
        this.#shell.stdin.write(`${number} ${path}\n`);
      } catch (error) {
        // Some failures to start a process are thrown, not emitted (ENOMEM).
        settle({ ok: false, why: error instanceof Error ? error.message : String(error) });
      }
    });
  }

  /** Ends the shell; readers end with their reads. */
  close(): void {
    clearTimeout(this.#idle);
    this.#lose(this.#shell, "the shell that starts readers was ended");
  }

  #start(): Shell {
    const shell = spawn("/bin/sh", ["-c", SCRIPT, "erofs-nbd prober"], {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, LC_ALL: "C" },
      cwd: "/",
    });
    shell.once("error", (error) => this.#lose(shell, error.message));
    shell.once("exit", () => this.#lose(shell, "the shell that starts readers has ended"));
    // EPIPE: it has just died, which `exit` reports as well.
    shell.stdin.on("error", () => {});
    createInterface({ input: shell.stdout }).on("line", (line) => this.#hear(line));
    shell.unref();
    unref(shell.stdin);
    unref(shell.stdout);
    return shell;
  }

  #rest(): void {
    if (this.#shell !== undefined) unref(this.#shell.stdout);
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => this.close(), IDLE_MS).unref();
  }

  #hear(line: string): void {
    const [, number, status, complaint = ""] = /^(\d+) (\d+) ?(.*)$/.exec(line) ?? [];
    const why =
      status === NOT_FOUND
        ? "dd is not installed"
        : complaint.startsWith("dd:")
          ? complaint
          : `dd ended with ${status}`;
    this.#pending.get(Number(number))?.(status === "0" ? { ok: true } : { ok: false, why });
  }

  #lose(shell: Shell | undefined, why: string): void {
    if (shell === undefined || this.#shell !== shell) return;
    this.#shell = undefined;
    shell.stdin.destroy();
    shell.stdout.destroy();
    for (const settle of [...this.#pending.values()]) settle({ ok: false, why });
  }
}

/** Pipes of a child are sockets to Node: they keep a program running only while an answer is pending. */
const ref = (stream: Readable | Writable): void => (stream as Partial<{ ref(): void }>).ref?.();
const unref = (stream: Readable | Writable): void => (stream as Partial<{ unref(): void }>).unref?.();

const PROBER = new Prober();

/** See Prober. */
export const probeDevice = (index: number, signal: AbortSignal): Promise<ProbeResult> =>
  PROBER.probe(index, signal);
