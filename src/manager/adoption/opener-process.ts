/**
 * One process that opens images for the manager (src/opener/start.ts), and the image that it has been given.
 *
 * Used by image-openers.ts. It may be stuck in an open for ever, so nothing waits for its end.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { OPENER_FD, type OpenerAnswer, type OpenOrder } from "../../opener/messages.ts";
import { close } from "../../sys/libc/files.ts";
import { SOCK_SEQPACKET, socketPair } from "../../sys/libc/sockets.ts";
import { Channel } from "../../sys/sockets/channel.ts";

/** An answer, with the descriptor that came with it. */
export type Answer =
  | (Extract<OpenerAnswer, { type: "opened" }> & { readonly fd: number })
  | Extract<OpenerAnswer, { type: "missing" | "lost" }>;

export interface OpenerEvents {
  /** It takes its first order. */
  ready(): void;
  /** The answer's descriptor belongs to the receiver. */
  answered(answer: Answer): void;
  /** It takes no orders any more, and does not answer the last one. Called once. */
  ended(why: string): void;
}

export class OpenerProcess {
  readonly #child: ChildProcess;
  readonly #channel: Channel<OpenerAnswer, OpenOrder>;
  readonly #events: OpenerEvents;
  #hasEnded = false;

  /** @throws Error, SystemError when a process or a descriptor is not to be had */
  constructor(program: string, stderr: number | "inherit" | "ignore", events: OpenerEvents) {
    this.#events = events;
    const [channelFd, openerFd] = socketPair(SOCK_SEQPACKET);
    const stdio: Array<"ignore" | "inherit" | number> = ["ignore", "ignore", stderr];
    stdio[OPENER_FD] = openerFd;
    try {
      this.#child = spawn(process.execPath, [program], { stdio, detached: true, cwd: "/" });
    } catch (error) {
      close(channelFd);
      throw error;
    } finally {
      close(openerFd);
    }
    this.#child.once("error", ({ message }) => this.#end(message));
    this.#child.once("exit", (code, signal) =>
      this.#end(signal === null ? `it exited with ${code}` : `it was killed by ${signal}`),
    );
    this.#child.unref();
    this.#channel = new Channel(channelFd, {
      message: (answer, fds) => this.#hear(answer, fds),
      // Its exit says more, and comes as well.
      end: () => {},
    });
    this.#channel.unref();
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  send(order: OpenOrder): void {
    // A failure means that it has died, which its exit reports.
    void this.#channel.send(order).catch(() => {});
  }

  /** Lets it end, or kills it. No event comes any more. An open that does not return is left in the kernel. */
  dismiss(): void {
    this.#hasEnded = true;
    if (this.#channel.isOpen) this.#channel.close();
    this.#child.kill("SIGKILL");
  }

  #hear(answer: OpenerAnswer, [fd]: readonly number[]): void {
    if (answer.type === "ready") this.#events.ready();
    else if (answer.type !== "opened") this.#events.answered(answer);
    else if (fd !== undefined) this.#events.answered({ ...answer, fd });
    else this.#end("it sent no descriptor");
  }

  #end(why: string): void {
    if (this.#hasEnded) return;
    this.#channel.receiveRest();
    this.dismiss();
    this.#events.ended(why);
  }
}
