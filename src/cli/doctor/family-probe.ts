/**
 * Whether the kernel has a generic netlink family, asked by a process that can be lost.
 *
 * Used by doctor. The families are listed, not looked up by name: a look-up makes newer kernels load the module, and
 * doctor loads nothing. This file is both sides: imported it starts the process, run it is the process.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

/** What came of it; `stuck`: no answer in time, the process is left to its own fate. */
export type FamilyAnswer =
  | { readonly state: "there"; readonly id: number }
  | { readonly state: "absent" }
  | { readonly state: "failed"; readonly message: string }
  | { readonly state: "stuck" };

const DEADLINE_MS = 5000;
const SELF = fileURLToPath(import.meta.url);

/** Asks for the family of that name. Never rejects. */
export function probeFamily(name: string): Promise<FamilyAnswer> {
  return new Promise((resolve) => {
    // Node's own flags (a loader, say) come along, so that this also works where the sources are run unbuilt.
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
    return { state: "failed", message: `the asking process ended with ${exitCode} and no answer` };
  }
}

/** The process: one line of JSON on stdout. */
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
