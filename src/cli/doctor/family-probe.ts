/**
 * Queries whether the kernel has a generic netlink family, in a separate process that may hang.
 *
 * Used by doctor. Lists the families instead of looking one up by name, because a look-up makes newer kernels load the
 * module. This file is both sides: imported it starts the process, executed it is the process.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

/** The result. `stuck`: no answer in time; the process has been sent SIGKILL and is not waited for. */
export type FamilyAnswer =
  | { readonly state: "there"; readonly id: number }
  | { readonly state: "absent" }
  | { readonly state: "failed"; readonly message: string }
  | { readonly state: "stuck" };

const DEADLINE_MS = 5000;
const SELF = fileURLToPath(import.meta.url);

/** Queries the family of that name. Never rejects. */
export function probeFamily(name: string): Promise<FamilyAnswer> {
  return new Promise((resolve) => {
    // Flags of Node.js, such as a loader, are passed on, so that this works with unbuilt sources, too.
    const child = spawn(process.execPath, [...process.execArgv, SELF, name], {
      stdio: ["ignore", "pipe", "ignore"],
      detached: true,
    });
    let text = "";
    const finish = (answer: FamilyAnswer): void => {
      clearTimeout(deadline);
      child.stdout.destroy();
      child.unref();
      resolve(answer);
    };
    const deadline = setTimeout(() => {
      child.kill("SIGKILL");
      finish({ state: "stuck" });
    }, DEADLINE_MS);
    child.stdout.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    child.once("error", (error) => finish({ state: "failed", message: error.message }));
    child.once("close", (code) => finish(readAnswer(text, code)));
  });
}

function readAnswer(text: string, exitCode: number | null): FamilyAnswer {
  try {
    return JSON.parse(text) as FamilyAnswer;
  } catch {
    return { state: "failed", message: `the probe process exited with ${exitCode} and no answer` };
  }
}

/** Runs in the process: prints one line of JSON. */
async function answer(name: string): Promise<FamilyAnswer> {
  const { GenericNetlink } = await import("../../../netlink/index.ts");
  try {
    const netlink = new GenericNetlink({ answerDeadlineMs: DEADLINE_MS });
    const found = (await netlink.families()).find((family) => family.name === name);
    return found === undefined ? { state: "absent" } : { state: "there", id: found.id };
  } catch (error) {
    return { state: "failed", message: error instanceof Error ? error.message : String(error) };
  }
}

if (process.argv[1] === SELF) {
  process.stdout.write(JSON.stringify(await answer(process.argv[2] ?? "")));
  process.exit(0);
}
