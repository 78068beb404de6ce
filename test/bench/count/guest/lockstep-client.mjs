// @ts-check
/**
 * An NBD client that takes turns with the server: it does one thing, then waits until the server sleeps.
 *
 * What a server does is then a matter of its code and not of who was quicker: all requests of a round come in with
 * one send, and room in the socket appears a reply at a time.
 */
import { readFileSync } from "node:fs";
import { check } from "../../../../dist/src/sys/libc/bind.js";
import {
  AF_UNIX,
  connectTo,
  MSG_DONTWAIT,
  recv,
  SOCK_STREAM,
  send,
  socket,
} from "../../../../dist/src/sys/libc/sockets.js";

const REQUEST_BYTES = 28;
const REPLY_BYTES = 16;
const GREETING_BYTES = 18;
const EXPORT_BYTES = 10;
const NO_FLAGS = 0;
/** A server that does nothing for so long is broken. */
const LIMIT_MS = 30_000;
const PAUSE_MS = 0.1;

const never = new Int32Array(new SharedArrayBuffer(4));

/** A socket of `serve` after the handshake. @param {string} path */
export function connectToServer(path) {
  const fd = check("socket", socket(AF_UNIX, SOCK_STREAM));
  check("connect", connectTo(fd, unixAddress(path)), path);
  const answer = new Uint8Array(GREETING_BYTES);
  receive(fd, answer, GREETING_BYTES);
  const hello = new Uint8Array(20);
  const view = new DataView(hello.buffer);
  view.setUint32(0, 3); // fixed newstyle, no zeroes
  hello.set(Buffer.from("IHAVEOPT"), 4);
  view.setUint32(12, 1); // EXPORT_NAME, of no length
  check("send", send(fd, hello, hello.length, 0));
  receive(fd, answer, EXPORT_BYTES);
  return fd;
}

/** @param {number} fd @param {Uint8Array} target @param {number} count */
function receive(fd, target, count) {
  for (let taken = 0; taken < count; ) {
    const got = check("recv", recv(fd, target, count - taken, 0));
    if (got === 0) throw new Error("The server has closed the connection");
    taken += got;
  }
}

export class LockstepClient {
  #fd;
  #pid;
  #target = new Uint8Array(1 << 20);

  /** @param {number} fd a socket on which requests may be sent @param {number} pid the server's */
  constructor(fd, pid) {
    this.#fd = fd;
    this.#pid = pid;
    this.#untilServerSleeps();
  }

  /**
   * Asks for `depth` reads with one send, then takes the replies one by one.
   * @param {number} round decides where to read
   * @param {number} depth
   * @param {number} lengthBytes of each read
   * @param {number} sizeBytes of the image
   */
  read(round, depth, lengthBytes, sizeBytes) {
    const requests = new Uint8Array(depth * REQUEST_BYTES);
    const view = new DataView(requests.buffer);
    for (let index = 0; index < depth; index += 1) {
      const at = index * REQUEST_BYTES;
      view.setUint32(at, 0x25609513);
      view.setUint32(at + 12, index);
      const offset = ((round * depth + index) * lengthBytes) % sizeBytes;
      view.setBigUint64(at + 16, BigInt(offset));
      view.setUint32(at + 24, lengthBytes);
    }
    this.#send(requests);
    for (let index = 0; index < depth; index += 1) {
      this.#take(REPLY_BYTES);
      const error = new DataView(this.#target.buffer).getUint32(4);
      if (error !== NO_FLAGS) throw new Error(`A read was answered with error ${error}`);
      this.#take(lengthBytes);
    }
  }

  /** @param {Uint8Array} bytes */
  #send(bytes) {
    if (check("send", send(this.#fd, bytes, bytes.length, 0)) !== bytes.length)
      throw new Error("The server takes no requests");
    this.#untilServerSleeps();
  }

  /** @param {number} count */
  #take(count) {
    for (let taken = 0; taken < count; ) {
      const got = recv(this.#fd, this.#target, Math.min(count - taken, this.#target.length), MSG_DONTWAIT);
      if (got === 0) throw new Error("The server has closed the connection");
      if (got > 0) taken += got;
      if (taken < count) this.#untilServerSleeps();
    }
    this.#untilServerSleeps();
  }

  /** Waits for state S: a traced process that strace has stopped is in state t. */
  #untilServerSleeps() {
    const deadlineMs = performance.now() + LIMIT_MS;
    while (!/\) S /.test(readFileSync(`/proc/${this.#pid}/stat`, "latin1"))) {
      if (performance.now() > deadlineMs) throw new Error("The server does not come to rest");
      Atomics.wait(never, 0, 0, PAUSE_MS);
    }
  }
}

/** @param {string} path */
function unixAddress(path) {
  const address = new Uint8Array(3 + Buffer.byteLength(path));
  address[0] = AF_UNIX;
  address.set(Buffer.from(path), 2);
  return address;
}
