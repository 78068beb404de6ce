/**
 * A worker: any number of links in one process, given to it over the control channel.
 *
 * It opens nothing by path and decides nothing: descriptors arrive with each link, ends are reported. When the
 * control channel ends (its manager is gone) it goes on serving what it has, and leaves when no link is left.
 */
import { padToBlocks } from "../source/padded-source.ts";
import type { Source } from "../source/source.ts";
import { openSource } from "../source/source-spec.ts";
import { Channel } from "../sys/channel.ts";
import { EPOLLIN } from "../sys/epoll.ts";
import { close } from "../sys/libc.ts";
import type { LinkEnd } from "./link-end.ts";
import { Pump } from "./pump.ts";
import { ServedLink } from "./serve-loop.ts";
import type { FromWorker, LinkReport, ToWorker } from "./worker-protocol.ts";

type ServeMessage = Extract<ToWorker, { type: "serve" }>;

interface Held {
  readonly link: ServedLink;
  readonly source: Source;
  readonly errors: ReadErrorLog;
}

export class Worker {
  readonly #pump = new Pump();
  readonly #links = new Map<number, Held>();
  readonly #channel: Channel<ToWorker, FromWorker>;
  readonly #leave: () => void;
  #stopping = false;

  /** Takes the control channel's descriptor over; calls `leave` when there is nothing left to do. */
  constructor(controlFd: number, leave: () => void) {
    this.#leave = leave;
    this.#channel = new Channel<ToWorker, FromWorker>(controlFd, {
      message: (message, fds) => this.#obey(message, fds),
      end: () => this.#stopWhenIdle(),
    });
    this.#pump.yieldTo(controlFd, EPOLLIN);
    this.#tell({ type: "ready" });
  }

  #obey(message: ToWorker, fds: readonly number[]): void {
    if (message.type === "serve") return this.#serve(message, fds);
    for (const fd of fds) close(fd);
    if (message.type === "close") this.#links.get(message.link)?.link.close();
    else if (message.type === "report")
      this.#tell({ type: "report", token: message.token, links: this.#report() });
    else this.#stopWhenIdle();
  }

  #serve(message: ServeMessage, fds: readonly number[]): void {
    const [socketFd, imageFd] = fds;
    if (socketFd === undefined || imageFd === undefined) {
      for (const fd of fds) close(fd);
      this.#tell({
        type: "refused",
        link: message.link,
        message: `${fds.length} descriptors came instead of 2`,
      });
      return;
    }
    const { link } = message;
    const source = padToBlocks(openSource(message.source, imageFd), message.blockSizeBytes);
    const errors = new ReadErrorLog((text, count) =>
      this.#tell({ type: "read-error", link, message: text, count }),
    );
    const served = new ServedLink(
      socketFd,
      this.#pump,
      { source, copyOnly: message.copyOnly },
      {
        firstRequest: () => this.#tell({ type: "first-request", link }),
        readError: (error) => errors.add(error),
        end: (end) => this.#ended(link, end),
      },
    );
    this.#links.set(link, { link: served, source, errors });
    this.#tell({ type: "serving", link });
  }

  #ended(number: number, end: LinkEnd): void {
    const held = this.#links.get(number);
    if (held === undefined) return;
    this.#links.delete(number);
    held.errors.close();
    held.source.close();
    this.#tell({ type: "ended", link: number, end, counters: held.link.counters });
    if (this.#stopping) this.#stopWhenIdle();
  }

  #report(): LinkReport[] {
    return Array.from(this.#links, ([link, held]) => ({ link, counters: held.link.counters }));
  }

  #stopWhenIdle(): void {
    this.#stopping = true;
    if (this.#links.size === 0) setImmediate(this.#leave);
  }

  /** A manager that is gone needs no telling; its channel's end has been noticed by itself. */
  #tell(message: FromWorker): void {
    if (!this.#channel?.isOpen) {
      if (message.type === "read-error")
        process.stderr.write(`${JSON.stringify({ level: "error", ...message })}\n`);
      return;
    }
    this.#channel.send(message).catch(() => {});
  }
}

/** How often the same link repeats itself in the log. */
const REPEAT_MS = 5000;

/** Read errors of one link: the first at once, then one line per interval with the number of them. */
class ReadErrorLog {
  readonly #write: (message: string, count: number) => void;
  #count = 0;
  #last = "";
  #timer: NodeJS.Timeout | undefined;

  constructor(write: (message: string, count: number) => void) {
    this.#write = write;
  }

  add(error: Error): void {
    if (this.#timer === undefined) {
      this.#write(error.message, 1);
      this.#timer = setTimeout(() => this.#flush(), REPEAT_MS).unref();
      return;
    }
    this.#count += 1;
    this.#last = error.message;
  }

  close(): void {
    clearTimeout(this.#timer);
    if (this.#count > 0) this.#write(this.#last, this.#count);
    this.#count = 0;
  }

  #flush(): void {
    this.#timer = undefined;
    if (this.#count > 0) this.#write(this.#last, this.#count);
    this.#count = 0;
  }
}
