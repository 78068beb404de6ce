/**
 * Watches a descriptor with libuv, for sockets that Node's own classes do not support.
 *
 * koffi runs the callback outside Node's callback scope: neither microtasks nor `nextTick` run after it, so a promise
 * that is resolved there waits for the next unrelated event, and an exception is lost. Handlers therefore run in a
 * `setImmediate`. Handlers that are `inPlace` must neither settle promises nor throw. libuv puts the watched descriptor
 * into non-blocking mode.
 */
import koffi from "koffi";

export interface Watch {
  /** Keeps, or does not keep, the process alive. */
  ref(): void;
  unref(): void;
  /** Stops watching; the descriptor stays open. Idempotent. */
  close(): void;
}

/** Keeps open handles referenced: koffi closes a handle that is garbage collected. */
const held = new Set<{ close(): void }>();
/** koffi aborts on a callback during Node's teardown, so all handles are closed before it. */
process.once("exit", () => {
  for (const handle of held) handle.close();
});

/** Calls `onReady` whenever `fd` is readable or hung up (level-triggered) until the watch is closed. */
export function watchReadable(fd: number, onReady: () => void, options: { inPlace?: boolean } = {}): Watch {
  return watch(fd, { readable: true, disconnect: true }, onReady, options);
}

/** Calls `onHangUp` once, when the peer of the socket `fd` has closed it or the socket was shut down. */
export function watchHangUp(fd: number, onHangUp: () => void): Watch {
  return watch(fd, { disconnect: true }, onHangUp, { once: true });
}

function watch(
  fd: number,
  events: { readable?: boolean; disconnect?: boolean },
  onReady: () => void,
  options: { inPlace?: boolean; once?: boolean },
): Watch {
  let open = true;
  const handle = koffi.node.poll(fd, events, () => notify());
  const runLater = (): void => {
    // Stopped until the handler has run: libuv would report the same readiness again and again.
    handle.stop();
    setImmediate(() => {
      if (!open) return;
      if (options.once !== true) handle.start(events, () => notify());
      onReady();
    });
  };
  const notify = options.inPlace === true ? onReady : runLater;
  held.add(handle);
  return {
    // A closed handle of koffi is a dangling pointer: using it crashes the process.
    ref: () => {
      if (open) handle.ref();
    },
    unref: () => {
      if (open) handle.unref();
    },
    close: () => {
      if (!open) return;
      open = false;
      held.delete(handle);
      handle.close();
    },
  };
}
