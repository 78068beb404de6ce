/**
 * Makes WorkerProcess objects: from a process that is spawned, or from a worker of a former manager.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { renameSync, rmSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { programFile } from "../program-files.ts";
import { close } from "../sys/libc/files.ts";
import { pidfdSendSignal } from "../sys/libc/processes.ts";
import { SOCK_SEQPACKET, socketPair } from "../sys/libc/sockets.ts";
import { identifyProcess } from "../sys/process-identity.ts";
import { randomUuid } from "../sys/random.ts";
import { listenUnix } from "../sys/sockets/listen.ts";
import { watchReadable } from "../sys/watch.ts";
import { CONTROL_FD, REUNION_FD } from "../worker-protocol/messages.ts";
import { type ReconnectedWorker, workerSocketName } from "./reattach.ts";
import {
  type WorkerConnection,
  type WorkerEvents,
  type WorkerOptions,
  WorkerProcess,
} from "./worker-process.ts";

const WORKER_PATH: string = programFile("worker/main.cjs");

/** Spawns a worker. @throws Error when a process or a descriptor is not to be had */
export function startWorker(
  options: WorkerOptions,
  events: WorkerEvents,
  words: readonly string[] = [],
): WorkerProcess {
  return new WorkerProcess((exited) => spawnConnected(options, words, exited), options, events);
}

/** Goes on with a worker of a former manager over the connection that reattach.ts has made. */
export function reattachWorker(
  { pid, pidFd, channelFd, socketPath }: Omit<ReconnectedWorker, "links">,
  options: WorkerOptions,
  events: WorkerEvents,
): WorkerProcess {
  const connect = (exited: (how: string) => void): WorkerConnection => {
    const watch = watchReadable(pidFd, () => {
      watch.close();
      close(pidFd);
      exited(`worker ${pid} has ended`);
    });
    // The result does not matter: ESRCH means that it has just exited.
    const kill = (): void => void pidfdSendSignal(pidFd, constants.signals.SIGKILL);
    return { process: { pid, kill, unref: () => watch.unref() }, channelFd, socketPath };
  };
  return new WorkerProcess(connect, options, events);
}

function spawnConnected(
  options: WorkerOptions,
  words: readonly string[],
  exited: (how: string) => void,
): WorkerConnection {
  const [channelFd, workerFd] = socketPair(SOCK_SEQPACKET);
  let socketPath = join(options.directory, `new-${randomUuid().slice(0, 8)}`);
  let listenFd: number | undefined;
  try {
    listenFd = listenUnix(socketPath, SOCK_SEQPACKET);
    const child = spawnWorker(options, words, workerFd, listenFd);
    socketPath = nameSocket(socketPath, options.directory, child.pid);
    child.once("error", (error) => exited(`cannot start a worker: ${error.message}`));
    child.once("exit", (code, signal) => exited(describeExit(child.pid, code, signal)));
    const process = {
      pid: child.pid ?? -1,
      kill: () => void child.kill("SIGKILL"),
      unref: () => child.unref(),
    };
    return { process, channelFd, socketPath };
  } catch (error) {
    close(channelFd);
    rmSync(socketPath, { force: true });
    throw error;
  } finally {
    close(workerFd);
    if (listenFd !== undefined) close(listenFd);
  }
}

/** Names the socket after the worker, so that a later manager can identify a worker that does not answer. */
function nameSocket(path: string, directory: string, pid: number | undefined): string {
  const identity = pid === undefined ? undefined : identifyProcess(pid);
  if (identity === undefined) return path;
  const named = join(directory, workerSocketName(identity));
  renameSync(path, named);
  return named;
}

function spawnWorker(
  options: WorkerOptions,
  words: readonly string[],
  controlFd: number,
  listenFd: number,
): ChildProcess {
  const stdio: Array<"ignore" | "inherit" | number> = ["ignore", "ignore", options.stderr];
  stdio[CONTROL_FD] = controlFd;
  stdio[REUNION_FD] = listenFd;
  const argv = [options.workerPath ?? WORKER_PATH, ...words];
  return spawn(process.execPath, argv, { stdio, detached: true, cwd: "/" });
}

function describeExit(pid: number | undefined, code: number | null, signal: NodeJS.Signals | null): string {
  return signal === null ? `worker ${pid} exited with ${code}` : `worker ${pid} was killed by ${signal}`;
}
