// @ts-check
/**
 * Calls for each read, from the calls that a server made while a client took turns with it.
 *
 * Chance decides when the server's time slice ends, when it lingers in vain, and what the engine does for itself. All
 * of that is left out, and the fewest calls of some rounds in a row count.
 */

const REQUEST_BYTES = 28;
/** Reads in a row that are counted together: what happens with every eighth only is seen as well. */
const WINDOW_READS = 8;
/** What a worker does once a second for its leases (lease-keeper.ts): calls in a row that begin with this one. */
const LOOK_BEGINS = "openat";
const LOOK = new Set(["openat", "statx", "read", "close", "fcntl"]);
/** What lease-keeper.ts calls LOOK_MS, a little less. What comes more often is counted. */
const LOOK_MS = 900;
/** What pump.ts calls SLICE_MS, a little less: strace sees the slice begin later than the pump does. */
const SLICE_MS = 19;
/** What pump.ts calls LINGER_MS, a little less. A wait that does not even last so long is not for want of requests. */
const LINGER_MS = 11;

/** How the columns of the table are called by other names: by 64-bit calls, and by libcs and processors. */
const COLUMN_OF = /** @type {Record<string, string>} */ ({
  epoll_wait: "epoll_wait",
  epoll_pwait: "epoll_wait",
  recvfrom: "recv",
  recvmsg: "recv",
  pread64: "pread",
  preadv: "pread",
  preadv2: "pread",
  statx: "statx",
  fcntl: "fcntl",
  write: "write",
  writev: "write",
  vmsplice: "write",
  splice: "splice",
  sendfile: "sendfile",
  sendto: "send",
  sendmsg: "send",
});
/** Memory, clocks and locks of the engine: they come with collections and optimisations, not with reads. */
const ENGINE =
  /^(?:futex|madvise|mmap|munmap|mremap|mprotect|brk|getpid|gettid|clock_gettime|sched_yield|restart_syscall)$/;

const COUNTED = [
  "epoll_wait",
  "event loop",
  "recv",
  "pread",
  "statx",
  "fcntl",
  "write",
  "splice",
  "sendfile",
  "send",
  "other",
];
export const READ_COLUMNS = [...COUNTED, "total"];

/** @typedef {import("./strace.mjs").Call} Call */

/**
 * The fewest calls for each read in any window of rounds, by READ_COLUMNS.
 * @param {readonly Call[]} calls of the server's first thread
 * @param {number} depth reads of a round, which come in with one send of the client
 * @returns {number[]}
 */
export function perRead(calls, depth) {
  // The first may have begun before strace came, the last may not have ended.
  const rounds = split(withoutChance(withoutLooks(calls)), depth).slice(1, -1);
  const most = WINDOW_READS / depth;
  if (rounds.length < most) throw new Error(`Only ${rounds.length} whole rounds can be told apart`);
  const windows = rounds.slice(most - 1).map((_, at) => {
    const window = rounds.slice(at, at + most);
    const sums = COUNTED.map((column) => window.reduce((sum, round) => sum + countIn(round, column), 0));
    return sums.map((count) => count / WINDOW_READS);
  });
  const fewest = COUNTED.map((_, column) => Math.min(...windows.map((figures) => figures[column] ?? 0)));
  // What chance adds to one window is not what it adds to another: so this is not the least total of a window.
  return [...fewest, fewest.reduce((sum, figure) => sum + figure, 0)];
}

/** @param {readonly Call[]} round @param {string} column of COUNTED */
function countIn(round, column) {
  return round.filter(({ name }) => (name === "event loop" ? name : (COLUMN_OF[name] ?? "other")) === column)
    .length;
}

/**
 * Without the worker's looks at its leases, which no read asked for: on a slow machine each window of large reads has
 * one.
 * @param {readonly Call[]} calls
 * @returns {Call[]}
 */
function withoutLooks(calls) {
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  let isInLook = false;
  return calls.filter(({ name, atMs }) => {
    if (name === LOOK_BEGINS && atMs - lookedAtMs >= LOOK_MS) {
      lookedAtMs = atMs;
      isInLook = true;
    } else isInLook &&= LOOK.has(name) || ENGINE.test(name);
    return !isInLook;
  });
}

/**
 * Without the engine's calls and without what the clock decides. A wait of the pump has lingered in vain when it lasts
 * that long, ends without an event and is followed by a wait of the event loop. That one is the clock's then, as it is
 * after a time slice. Any other stays, under a name of its own.
 * @param {readonly Call[]} calls
 * @returns {Call[]}
 */
function withoutChance(calls) {
  const own = calls.filter(({ name }) => !ENGINE.test(name));
  const pump = pumpOf(own);
  /** @param {Call | undefined} call */
  const isOfLoop = (call) => call !== undefined && isEpollWait(call) && descriptorOf(call) !== pump;
  /** @param {number} index */
  const isInVain = (index) => {
    const [call, next] = [own[index], own[index + 1]];
    if (call === undefined || next === undefined || !isEpollWait(call) || !isOfLoop(next)) return false;
    return call.result === 0 && next.atMs - call.atMs >= LINGER_MS;
  };
  let sliceBeganMs = own[0]?.atMs ?? 0;
  let isInLoop = false;
  return own.flatMap((call, index) => {
    if (!isOfLoop(call)) {
      if (isInLoop && isEpollWait(call)) {
        isInLoop = false;
        sliceBeganMs = call.atMs;
      }
      return isInVain(index) ? [] : [call];
    }
    // libuv waits twice before it sleeps.
    if (isInLoop) return [];
    isInLoop = true;
    const isClocks = isInVain(index - 1) || call.atMs - sliceBeganMs >= SLICE_MS;
    return isClocks ? [] : [{ ...call, name: "event loop" }];
  });
}

/** @param {Call} call */
function descriptorOf({ args }) {
  return args.split(",")[0];
}

/** @param {Call} call */
function isEpollWait({ name }) {
  return name === "epoll_wait" || name === "epoll_pwait";
}

/** The descriptor that is waited on just before requests are received. @param {readonly Call[]} calls */
function pumpOf(calls) {
  const received = calls.findIndex(isRequest);
  const wait = calls.slice(0, received).reverse().find(isEpollWait);
  if (wait === undefined) throw new Error("No request was received after a wait");
  return descriptorOf(wait);
}

/** A worker's control channel is read with recvmsg. @param {Call} call */
function isRequest({ name, result }) {
  return name === "recvfrom" && result > 0;
}

/**
 * One list of calls for each round: it begins where the round's first request is received.
 * @param {readonly Call[]} calls
 * @param {number} depth
 */
function split(calls, depth) {
  /** @type {Call[][]} */
  const rounds = [[]];
  let receivedBytes = 0;
  for (const call of calls) {
    if (isRequest(call)) {
      if (receivedBytes % (depth * REQUEST_BYTES) === 0) rounds.push([]);
      receivedBytes += call.result;
    }
    rounds.at(-1)?.push(call);
  }
  return rounds;
}
