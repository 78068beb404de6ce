/**
 * sd_notify(3): what a service tells the service manager that started it, as datagrams of NAME=VALUE lines.
 *
 * service.ts says what and when; here is how. What the service manager has put into the environment is taken out of it,
 * so that no child speaks in our name. Never throws and never blocks: a service that is not heard still serves.
 */
import type { Log } from "../../log/log.ts";
import { sendDatagram } from "../../sys/sockets/datagram.ts";

/** What a service manager says to a process that it has started. */
export interface ServiceEnvironment {
  /** A path, or with «@» an abstract name. */
  readonly socket: string;
  /** A service that is silent for longer is killed and started anew. Undefined: nobody watches. */
  readonly watchdogMs: number | undefined;
}

const VARIABLES = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] as const;

/** Reads it and takes it away; undefined where no service manager listens to us. */
export function takeServiceEnvironment(
  environment: NodeJS.ProcessEnv = process.env,
  pid: number = process.pid,
): ServiceEnvironment | undefined {
  const [socket, watchdogUsec, watchdogPid] = VARIABLES.map((name) => environment[name]);
  for (const name of VARIABLES) delete environment[name];
  // Others are «vsock:…», for whole machines.
  if (socket === undefined || !/^[/@]./.test(socket)) return undefined;
  const usec = Number(watchdogUsec);
  const isForUs = watchdogPid === undefined || Number(watchdogPid) === pid;
  const watchdogMs = isForUs && Number.isSafeInteger(usec) && usec > 0 ? usec / 1000 : undefined;
  return { socket, watchdogMs };
}

/** How often, and how long, a message is offered to a queue that is full: READY=1 must not be lost. */
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

  /** Sends the lines as one message. What its receiver cannot take now goes a moment later, in order. */
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

  /** Returns false when it is to be tried again. */
  #offer(text: string): boolean {
    try {
      const sent = sendDatagram(this.#socket, text);
      this.#isMute &&= !sent;
      this.#attempts += 1;
      return sent || this.#attempts > MAX_ATTEMPTS;
    } catch (error) {
      // Said once: this comes with every beat.
      if (!this.#isMute) this.#log.warn(`The service manager does not hear us: ${(error as Error).message}`);
      this.#isMute = true;
      return true;
    }
  }
}
