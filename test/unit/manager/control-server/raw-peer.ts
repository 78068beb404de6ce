/** A peer of the control socket that sends any bytes and keeps every line that it receives. */
import { once } from "node:events";
import { createConnection, Socket } from "node:net";
import { until } from "../../../helpers/until.ts";

export interface RawAnswer {
  readonly id?: number;
  readonly result?: unknown;
  readonly error?: { readonly code: string; readonly message: string; readonly exitCode: number };
  readonly event?: unknown;
}

export class RawPeer {
  readonly socket: Socket;
  ended = false;
  #text = "";

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      this.#text += chunk;
    });
    socket.on("error", () => {});
    socket.once("close", () => {
      this.ended = true;
    });
  }

  static async connect(path: string): Promise<RawPeer> {
    const socket = createConnection(path);
    await once(socket, "connect");
    return new RawPeer(socket);
  }

  /** A peer on a connected descriptor, which it takes over. */
  static over(fd: number): RawPeer {
    return new RawPeer(new Socket({ fd, readable: true, writable: true }));
  }

  /** The complete lines that were received, parsed. */
  get answers(): RawAnswer[] {
    return this.#text
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line) as RawAnswer);
  }

  send(text: string | Uint8Array): void {
    this.socket.write(text);
  }

  async answer(count: number): Promise<RawAnswer[]> {
    await until(`answer ${count}`, () => this.answers.length >= count || this.ended);
    return this.answers;
  }

  async end(): Promise<void> {
    await until("the end of the connection", () => this.ended);
  }

  close(): void {
    this.socket.destroy();
  }
}
