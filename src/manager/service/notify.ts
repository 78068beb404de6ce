/**
 * Speaks sd_notify(3): datagrams of NAME=VALUE lines to the service manager that started this process.
 *
 * Used by service.ts, which decides what is sent and when. The variables of the service manager are removed from the
 * environment, so that no child process can send in this service's name. Never throws and never blocks.
 */
import type { Log } from "../../log/log.ts";
import { sendDatagram } from "../../sys/sockets/datagram.ts";

/** What a service manager passes to a process that it starts. */
export interface ServiceEnvironment {
  /** A path, or an abstract name that begins with `@`. */
  readonly socket: string;
  /** A service without a beat for this long is killed and restarted. Undefined: there is no watchdog. */
  readonly watchdogMs: number | undefined;
}

const VARIABLES = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] as const;

/** Reads and removes the variables. Undefined where there is no service manager, or none that can be reached. */
export function takeServiceEnvironment(
  environment: NodeJS.ProcessEnv = process.env,
  pid: number = process.pid,
): ServiceEnvironment | undefined {
  const [socket, watchdogUsec, watchdogPid] = VARIABLES.map((name) => environment[name]);
  for (const name of VARIABLES) delete environment[name];
  // Others are `vsock:…`, for virtual machines.
  if (socket === undefined || !/^[/@]./.test(socket)) return undefined;
  const usec = Number(watchdogUsec);
  const isForUs = watchdogPid === undefined || Number(watchdogPid) === pid;
  const watchdogMs = isForUs && Number.isSafeInteger(usec) && usec > 0 ? usec / 1000 : undefined;
  return { socket, watchdogMs };
}

/** While the receiver's queue is full, a message is sent again, up to this many times: READY=1 must not be lost. */
const AGAIN_MS = 50;
const MAX_ATTEMPTS = 200;

export class Notifier {
  readonly #socket: string;
  readonly #log: Log;
  readonly #unsent: string[] = [];
  #attempts = 0;
  #again: NodeJS.Timeout | undefined;
  #isMute = false;

  constructor(socket: string, log: Log) {
    this.#socket = socket;
    this.#log = log;
  }

  /** Sends the lines as one message. While the receiver's queue is full, messages wait in order. */
  tell(lines: Readonly<Record<string, string | number>>): void {
    const text = Object.entries(lines)
      .map(([name, value]) => `${name}=${String(value).replaceAll("\n", " ")}`)
      .join("\n");
    this.#unsent.push(text);
    if (this.#again === undefined) this.#send();
  }

  #send(): void {
    this.#again = undefined;
    for (;;) {
      const [text] = this.#unsent;
      if (text === undefined) return;
      if (!this.#offer(text)) {
        this.#again = setTimeout(() => this.#send(), AGAIN_MS).unref();
        return;
      }
      this.#unsent.shift();
      this.#attempts = 0;
    }
  }

  /** Returns false when the message has to be sent again. */
  #offer(text: string): boolean {
    try {
      const sent = sendDatagram(this.#socket, text);
      this.#isMute &&= !sent;
      this.#attempts += 1;
      return sent || this.#attempts > MAX_ATTEMPTS;
    } catch (error) {
      // Logged once: it may fail with every beat.
      if (!this.#isMute) this.#log.warn(`cannot notify the service manager: ${(error as Error).message}`);
      this.#isMute = true;
      return true;
    }
  }
}
