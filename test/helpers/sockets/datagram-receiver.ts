/**
 * A real unix datagram socket that collects what is sent to it: the service manager's side of sd_notify(3).
 *
 * For tests. `full` leaves messages in the queue, so that its sender finds no room.
 */
import { check } from "../../../src/sys/libc/bind.ts";
import { close } from "../../../src/sys/libc/files.ts";
import { AF_UNIX, bindTo, MSG_DONTWAIT, recv, SOCK_DGRAM, socket } from "../../../src/sys/libc/sockets.ts";
import { until } from "../until.ts";

/** One message: its lines, by name. */
export type Notification = Readonly<Record<string, string>>;

export class DatagramReceiver {
  readonly address: string;
  /** Every message so far, in order. */
  readonly messages: Notification[] = [];
  readonly #fd: number;
  readonly #timer: NodeJS.Timeout;
  readonly #buffer = Buffer.alloc(1 << 16);
  /** Nothing is taken out of the queue. */
  isStuck = false;

  /** Listens at a path, or at an abstract name that begins with `@`. */
  constructor(address: string) {
    this.address = address;
    this.#fd = check("open a socket", socket(AF_UNIX, SOCK_DGRAM));
    const name = Buffer.from(address.replace(/^@/, "\0"));
    check("bind", bindTo(this.#fd, Buffer.concat([Uint8Array.of(AF_UNIX, 0), name])), address);
    this.#timer = setInterval(() => this.#take(), 5);
  }

  /** All values that were sent under a name. */
  values(name: string): string[] {
    return this.messages.flatMap((message) => (name in message ? [message[name] ?? ""] : []));
  }

  /** Waits until a message holds this line, and returns the message. */
  async line(name: string, value?: string | RegExp): Promise<Notification> {
    const fits = (message: Notification): boolean => {
      const found = message[name];
      if (found === undefined || value === undefined) return found !== undefined;
      return typeof value === "string" ? found === value : value.test(found);
    };
    await until(`${name}=${value ?? "…"} is told`, () => this.messages.some(fits));
    return this.messages.find(fits) ?? {};
  }

  close(): void {
    clearInterval(this.#timer);
    close(this.#fd);
  }

  #take(): void {
    while (!this.isStuck) {
      const length = recv(this.#fd, this.#buffer, this.#buffer.length, MSG_DONTWAIT);
      if (length < 0) return;
      const lines = this.#buffer.toString("utf8", 0, length).split("\n");
      this.messages.push(
        Object.fromEntries(
          lines.map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
        ),
      );
    }
  }
}
