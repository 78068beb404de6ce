/**
 * Watching a descriptor with libuv, for sockets that Node's own classes do not carry.
 *
 * koffi runs the callback outside Node's callback scope: neither microtasks nor `nextTick` are drained after
 * it, so a promise resolved there would wait for the next unrelated event, and an exception would be lost.
 * Handlers therefore run in a `setImmediate`, unless they are `inPlace`: then they settle no promise and throw
 * nothing. libuv puts the watched descriptor into non-blocking mode.
 */
import koffi from "koffi";

export interface Watch {
  /** Keeps, or does not keep, the process alive. */
  ref(): void;
  unref(): void;
  /** Stops watching; the descriptor stays open. Idempotent. */
  close(): void;
}

/** koffi closes a handle that is garbage collected, so every open one is held here. */
const held = new Set<{ close(): void }>();
/** A callback while Node takes its environment down is a fatal error in koffi: none may be open by then. */
process.once("exit", () => {
  for (const handle of held) handle.close();
});

/** Calls `onReady` whenever `fd` is readable or hung up (level-triggered) until the watch is closed. */
export function watchReadable(fd: number, onReady: () => void, options: { inPlace?: boolean } = {}): Watch {
  return watch(fd, { readable: true, disconnect: true }, onReady, options);
}

/** Calls `onHangUp` once, when the peer of the socket `fd` is gone or the socket was shut down. */
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
    // Stopped until the handler has run, or libuv would report the same readiness over and over.
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
    // koffi's handle is a dangling pointer once closed: touching it ends the process.
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
