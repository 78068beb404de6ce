/**
 * `struct msghdr` for sendmsg(2) and recvmsg(2), laid out by hand for 64-bit systems, with room for descriptors.
 *
 * Used by everything that sends descriptors to another process or receives them (SCM_RIGHTS, unix(7)).
 */
import { addressOf } from "../libc/bind.ts";
import { SOL_SOCKET } from "../libc/sockets.ts";

const SCM_RIGHTS = 1;
const SCM_CREDENTIALS = 2;
const CMSG_HEADER_BYTES = 16;
/** `struct ucred` (pid, uid, gid), rounded up to whole words. */
const CREDENTIALS_BYTES = 16;

/** Control data that came with a message. */
export interface ReceivedControl {
  /** Open in this process; the receiver closes them. */
  readonly fds: readonly number[];
  /** Set by the kernel on a socket with SO_PASSCRED. */
  readonly senderPid: number | undefined;
}

/** One message header with one iovec: the buffers stay referenced. */
export class MessageHeader {
  readonly header: Uint8Array<ArrayBuffer> = new Uint8Array(56);
  readonly #control: Uint8Array;
  readonly #maxFds: number;
  readonly #iovec = new BigUint64Array(2);
  readonly #words = new BigUint64Array(this.header.buffer);

  /**
   * With `withCredentials` there is room for the sender's credentials as well. A message with more descriptors than
   * `maxFds` is received with MSG_CTRUNC, and the kernel closes those that do not fit.
   */
  constructor(maxFds: number, withCredentials: boolean) {
    this.#maxFds = maxFds;
    const credentialsBytes = withCredentials ? CMSG_HEADER_BYTES + CREDENTIALS_BYTES : 0;
    this.#control = new Uint8Array(CMSG_HEADER_BYTES + credentialsBytes + maxFds * 4);
    this.#words[2] = addressOf(new Uint8Array(this.#iovec.buffer));
    this.#words[3] = 1n;
  }

  /** Ready to receive into `target`. */
  toReceive(target: Uint8Array): Uint8Array {
    return this.#point(target, this.#control.length);
  }

  /** Ready to send `body` with these descriptors, of which the peer gets duplicates. */
  toSend(body: Uint8Array, fds: readonly number[]): Uint8Array {
    if (fds.length > this.#maxFds) throw new RangeError(`cannot send ${fds.length} descriptors at a time`);
    if (fds.length === 0) return this.#point(body, 0);
    const view = new DataView(this.#control.buffer);
    const payloadBytes = fds.length * 4;
    view.setBigUint64(0, BigInt(CMSG_HEADER_BYTES + payloadBytes), true);
    view.setInt32(8, SOL_SOCKET, true);
    view.setInt32(12, SCM_RIGHTS, true);
    fds.forEach((fd, index) => {
      view.setInt32(CMSG_HEADER_BYTES + index * 4, fd, true);
    });
    return this.#point(body, CMSG_HEADER_BYTES + payloadBytes);
  }

  /** MSG_TRUNC, MSG_CTRUNC and others, of the message that was received last. */
  get flags(): number {
    return new DataView(this.header.buffer).getInt32(48, true);
  }

  /** Control data of the message that was received last: a sequence of control messages (cmsg(3)). */
  received(): ReceivedControl {
    const view = new DataView(this.#control.buffer);
    const controlBytes = Number(this.#words[5]);
    const fds: number[] = [];
    let senderPid: number | undefined;
    for (let at = 0; at + CMSG_HEADER_BYTES <= controlBytes; ) {
      const lengthBytes = Number(view.getBigUint64(at, true));
      const isSocketLevel = view.getInt32(at + 8, true) === SOL_SOCKET;
      const type = view.getInt32(at + 12, true);
      const data = at + CMSG_HEADER_BYTES;
      if (isSocketLevel && type === SCM_CREDENTIALS) senderPid = view.getInt32(data, true);
      if (isSocketLevel && type === SCM_RIGHTS)
        for (let fd = data; fd < at + lengthBytes; fd += 4) fds.push(view.getInt32(fd, true));
      at += Math.max(CMSG_HEADER_BYTES, (lengthBytes + 7) & ~7);
    }
    return { fds, senderPid };
  }

  #point(body: Uint8Array, controlBytes: number): Uint8Array {
    this.#iovec[0] = addressOf(body);
    this.#iovec[1] = BigInt(body.length);
    this.#words[4] = controlBytes === 0 ? 0n : addressOf(this.#control);
    this.#words[5] = BigInt(controlBytes);
    this.#words[6] = 0n;
    return this.header;
  }
}
