/**
 * Finding out what a source module makes, before a device is made of it: in a worker of its own, which is then ended.
 *
 * So a module that throws, loops, exits or eats memory while it is loaded harms nobody, and what is found out is found
 * with the rights that workers have. The manager itself never runs a line of it.
 */
import { setPriority } from "node:os";
import { ErofsNbdError } from "../errors.ts";
import { openModule } from "../source/open-module.ts";
import { pathView } from "../source/path-view.ts";
import type { JsonValue, ModuleSourceSpec } from "../source/source-spec.ts";
import { close } from "../sys/libc.ts";
import type { InspectedSource } from "../worker-protocol/messages.ts";
import { startWorker, type WorkerOptions } from "./worker-process.ts";

/** A module as it was attached: the caller closes `fd`. */
export interface InspectedModule {
  readonly fd: number;
  readonly spec: ModuleSourceSpec;
  /** The first bytes of its data. */
  readonly head: Uint8Array;
}

/** How often to look whether the worker gets on with its start (start-watch.ts). */
const LOOK_MS = 250;
/** For the module to be loaded and opened, and its first block read. */
const INSPECT_DEADLINE_MS = 10_000;
/** It is not to run with the manager's own priority. */
const NICENESS = 5;

/** @throws ErofsNbdError ERR_SOURCE: the module cannot be opened or loaded, its source cannot be opened or read */
export async function inspectModule(
  path: string,
  options: JsonValue,
  headBytes: number,
  workers: WorkerOptions,
): Promise<InspectedModule> {
  const module = openModule(path);
  try {
    const { sizeBytes, identity, head } = await askWorker(module.path, options, headBytes, workers);
    const view = pathView();
    const spec = { type: "module", path: module.path, view, options, sizeBytes, identity } as const;
    return { fd: module.fd, spec, head };
  } catch (error) {
    close(module.fd);
    if (error instanceof ErofsNbdError) throw error;
    const message = error instanceof Error ? error.message : String(error);
    throw new ErofsNbdError("ERR_SOURCE", message, {
      hint: "the module runs in workers, with their rights; see docs/sources.md",
      cause: error,
    });
  }
}

async function askWorker(
  path: string,
  options: JsonValue,
  headBytes: number,
  workers: WorkerOptions,
): Promise<InspectedSource & { readonly head: Uint8Array }> {
  const fail = (why: string): ErofsNbdError =>
    new ErofsNbdError("ERR_SOURCE", `cannot open source ${path}: ${why}`, {
      hint: "load it by itself, with «node», to see what it does",
    });
  let begin = (): void => {};
  let how: string | undefined;
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const worker = startWorker(workers, {
    ready: () => begin(),
    exited: (why) => {
      how = why;
      begin();
    },
  });
  const killAfter = (milliseconds: number): NodeJS.Timeout =>
    setTimeout(() => worker.kill(`it was not done after ${milliseconds / 1000} s`), milliseconds);
  lowerPriority(worker.pid);
  let deadline: NodeJS.Timeout | undefined;
  const looks = setInterval(() => {
    const trouble = worker.startWatch.look();
    if (trouble !== undefined) worker.kill(`it ${trouble} while it was starting`);
  }, LOOK_MS);
  try {
    await begun;
    clearInterval(looks);
    deadline = killAfter(INSPECT_DEADLINE_MS);
    const found = how === undefined ? await worker.inspect(path, options, headBytes) : undefined;
    if (found !== undefined) return found;
    throw fail(`the worker that loaded it did not live through it: ${how ?? "it ended"}`);
  } finally {
    clearInterval(looks);
    clearTimeout(deadline);
    worker.kill();
  }
}

function lowerPriority(pid: number): void {
  try {
    setPriority(pid, NICENESS);
  } catch {
    // ESRCH: it has ended already, and that is noticed.
  }
}
