/**
 * Inspects a source module before a device is made of it, in a worker that is started for this and then killed.
 *
 * Used by the manager, which never runs a module's code itself. A module that throws, loops, exits or uses up memory
 * while it is loaded affects only that worker, and it runs with the reduced rights of workers.
 */
import { ErofsNbdError } from "../errors.ts";
import { openModule } from "../source/open-module.ts";
import { pathView } from "../source/path-view.ts";
import type { JsonValue, ModuleSourceSpec } from "../source/source-spec.ts";
import { close } from "../sys/libc/files.ts";
import { lowerPriority } from "../sys/priority.ts";
import type { InspectedSource } from "../worker-protocol/messages.ts";
import { startWorker } from "./spawn.ts";
import type { WorkerOptions } from "./worker-process.ts";

/** An inspected module. The caller closes `fd`. */
export interface InspectedModule {
  readonly fd: number;
  readonly spec: ModuleSourceSpec;
  /** The first bytes of its data. */
  readonly head: Uint8Array;
}

/** How often to check the progress of the worker's start (start-watch.ts). */
const LOOK_MS = 250;
/** Timeout for loading the module, opening the source and reading its first block. */
const INSPECT_DEADLINE_MS = 10_000;

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
  const failure = (why: string): ErofsNbdError =>
    new ErofsNbdError("ERR_SOURCE", `cannot open source ${path}: ${why}`, {
      hint: "load the module directly with `node` to see what it does",
    });
  let goOn = (): void => {};
  let how: string | undefined;
  const readyOrDead = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  const worker = startWorker(workers, {
    ready: () => goOn(),
    exited: (why) => {
      how = why;
      goOn();
    },
  });
  const killAfter = (milliseconds: number): NodeJS.Timeout =>
    setTimeout(() => worker.kill(`it was not done after ${milliseconds / 1000} s`), milliseconds);
  lowerPriority(worker.pid);
  let deadline: NodeJS.Timeout | undefined;
  const looks = setInterval(() => {
    const stuck = worker.startWatch.look();
    if (stuck !== undefined) worker.kill(`it ${stuck} while it was starting`);
  }, LOOK_MS);
  try {
    await readyOrDead;
    clearInterval(looks);
    deadline = killAfter(INSPECT_DEADLINE_MS);
    const found = how === undefined ? await worker.inspect(path, options, headBytes) : undefined;
    if (found !== undefined) return found;
    throw failure(`the worker that loaded it did not live through it: ${how ?? "it ended"}`);
  } finally {
    clearInterval(looks);
    clearTimeout(deadline);
    worker.kill();
  }
}
