/**
 * The built `erofs-nbd serve` as a process, for tests with clients of other projects.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const CLI = fileURLToPath(new URL("../../../dist/src/cli/main.cjs", import.meta.url));

/** A server at work. */
export interface ServeProcess {
  readonly pid: number;
  /** What it says clients should use. */
  readonly uri: string;
  /** Ends it as Ctrl-C does and resolves with its exit code and everything it has written. */
  stop(): Promise<{ code: number | null; stderr: string }>;
}

/** Starts it and waits until it listens. @throws Error with its own words when it refuses */
export async function startServe(...args: readonly string[]): Promise<ServeProcess> {
  if (!existsSync(CLI)) throw new Error(`cannot serve: ${CLI} is missing (npm run build)`);
  const child = spawn(process.execPath, [CLI, "serve", ...args], { stdio: ["ignore", "ignore", "pipe"] });
  const exit = once(child, "exit");
  let stderr = "";
  const uri = await new Promise<string>((resolve, reject) => {
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
      const said = /^serving .* at (\S+)$/m.exec(stderr)?.[1];
      if (said !== undefined) resolve(said);
    });
    exit.then(() => reject(new Error(`serve has ended: ${stderr}`)), reject);
  });
  return {
    pid: child.pid ?? 0,
    uri,
    stop: async () => {
      child.kill("SIGINT");
      await exit;
      return { code: child.exitCode, stderr };
    },
  };
}
