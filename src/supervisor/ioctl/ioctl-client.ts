/**
 * The process that carries an ioctl device: starts it, hears from it, ends it. The process itself is ioctl-main.ts.
 *
 * Used by IoctlDevice; `disconnectByIoctl` also by leftover devices, whose process a former manager started.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { ErofsNbdError } from "../../errors.ts";
import { programFile } from "../../program-files.ts";
import { errnoName } from "../../sys/errno.ts";
import {
  type IoctlClientArguments,
  type IoctlClientMessage,
  type IoctlConnectArguments,
  SOCKET_FD,
} from "./codes.ts";

const CLIENT_PATH = programFile("supervisor/ioctl/ioctl-main.js");
const POLL_MS = 20;

export class IoctlClient {
  readonly #onExit: () => void;
  #process: ChildProcess | undefined;

  /** `onExit` is called when the process has ended, or could not be started. */
  constructor(onExit: () => void) {
    this.#onExit = onExit;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  get isRunning(): boolean {
    return this.#process !== undefined;
  }

  /**
   * Starts the process, which enters DO_IT with the socket, and returns the index that it got. `requestedIndex` is the
   * only candidate, if there is one. @throws ErofsNbdError
   */
  connect(
    kernelFd: number,
    wanted: IoctlConnectArguments,
    requestedIndex: number | undefined,
  ): Promise<number> {
    const stdio: Array<"ignore" | "pipe" | number> = ["ignore", "pipe", "ignore"];
    stdio[SOCKET_FD] = kernelFd;
    const client = spawn(process.execPath, [CLIENT_PATH, JSON.stringify(wanted)], {
      stdio,
      detached: true,
      cwd: "/",
    });
    this.#process = client;
    client.once("exit", () => this.#exited());
    client.once("error", () => this.#exited());
    return new Promise((resolve, reject) => {
      client.once("error", reject);
      // At `exit` its last message may still be in the pipe.
      client.once("close", () =>
        reject(new ErofsNbdError("ERR_KERNEL", "cannot attach by ioctl: its process ended early")),
      );
      if (client.stdout === null) return;
      createInterface(client.stdout).on("line", (line) => {
        const message = JSON.parse(line) as IoctlClientMessage;
        if (message.type === "connected") resolve(message.index);
        else if (message.type !== "ended") reject(describeRefusal(message, requestedIndex));
      });
    });
  }

  kill(): void {
    this.#process?.kill("SIGKILL");
  }

  /** Waits until the process has ended, or the deadline. */
  async gone(deadlineMs: number): Promise<void> {
    const end = performance.now() + deadlineMs;
    while (this.isRunning && performance.now() < end) await sleep(POLL_MS);
  }

  #exited(): void {
    this.#process = undefined;
    this.#onExit();
  }
}

/** Has the kernel send a disconnect request on an ioctl device's link, from a process that may get stuck. */
export function disconnectByIoctl(index: number): void {
  const argument: IoctlClientArguments = { act: "disconnect", index };
  spawn(process.execPath, [CLIENT_PATH, JSON.stringify(argument)], { stdio: "ignore" }).unref();
}

function describeRefusal(
  message: Exclude<IoctlClientMessage, { type: "connected" | "ended" }>,
  requestedIndex: number | undefined,
): ErofsNbdError {
  if (message.type === "failed") {
    const name = errnoName(message.errno);
    return new ErofsNbdError(
      "ERR_KERNEL",
      `cannot attach nbd${message.index}: ${name} (${message.errno}) from ${message.ioctl}`,
    );
  }
  const what = requestedIndex === undefined ? "no nbd device is free" : `nbd${requestedIndex} is in use`;
  return new ErofsNbdError("ERR_DEVICE_BUSY", `cannot attach by ioctl: ${what}`, {
    hint: "detach a device, or load the module with a higher nbds_max",
  });
}
