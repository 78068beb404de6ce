/**
 * One block read from a device by a process that we can afford to lose.
 *
 * A read from a device whose links are dead waits in the kernel, unkillable, for as long as the dead-connection
 * timeout; whatever touches the device must therefore never be this process. The read is O_DIRECT, so that it
 * reaches the link and not the page cache; opening the device also makes the kernel read its partition table.
 */
import { spawn } from "node:child_process";
import { devicePath } from "./sysfs.ts";

export type ProbeResult = { readonly ok: true } | { readonly ok: false; readonly why: string };

const PROBE_BYTES = 4096;

/**
 * Reads the first block. Waits for the read's end or the signal; the process may outlive the signal. Never rejects.
 * `path` is for tests.
 */
export async function probeDevice(
  index: number,
  signal: AbortSignal,
  path: string = devicePath(index),
): Promise<ProbeResult> {
  if (signal.aborted) return { ok: false, why: "aborted" };
  try {
    return await readFirstBlock(path, signal);
  } catch (error) {
    // Some failures to start a process are thrown, not reported (ENOMEM).
    return { ok: false, why: error instanceof Error ? error.message : String(error) };
  }
}

function readFirstBlock(path: string, signal: AbortSignal): Promise<ProbeResult> {
  const argv = [`if=${path}`, "of=/dev/null", `bs=${PROBE_BYTES}`, "count=1", "iflag=direct"];
  const child = spawn("dd", argv, {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, LC_ALL: "C" },
  });
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaint += text;
  });
  return new Promise((resolve) => {
    const settle = (result: ProbeResult): void => {
      signal.removeEventListener("abort", onAbort);
      resolve(result);
    };
    const onAbort = (): void => {
      child.kill("SIGKILL");
      child.unref();
      child.stderr.destroy();
      settle({ ok: false, why: "the read did not come back in time" });
    };
    signal.addEventListener("abort", onAbort, { once: true });
    child.once("error", (error) => settle({ ok: false, why: error.message }));
    child.once("close", (code) => {
      const why = complaint.split("\n").find((line) => line.startsWith("dd:")) ?? `dd ended with ${code}`;
      settle(code === 0 ? { ok: true } : { ok: false, why });
    });
  });
}
