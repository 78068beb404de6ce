/**
 * The transport to the real kernel: one generic netlink socket, close-on-exec and non-blocking.
 *
 * Opened by socket.ts and events.ts. Sends run on libuv's pool, because the driver's handler runs inside send() and
 * may sleep for seconds; receives on the event loop, because answers are queued when send() returns. Never retries.
 */
import { constants } from "node:os";
import koffi from "koffi";
import * as C from "../constants.ts";
import { SyscallError } from "../errors.ts";
import {
  bindSocket,
  closeSocket,
  getOption,
  openSocket,
  type Received,
  receive,
  receiveOffLoop,
  sendOffLoop,
  setOption,
  setOptionOffLoop,
} from "./libc.ts";
import type { NetlinkTransport, ReadWatch, ReceivedDatagram, TransportOptions } from "./transport.ts";

const FIRST_BUFFER_BYTES = 32 * 1024;
/** A longer datagram is reported as truncated; the kernel's own builders stay below 64 KiB plus headers. */
const MAXIMUM_BUFFER_BYTES = 1024 * 1024;

function isErrno(error: unknown, ...errnos: readonly number[]): boolean {
  return error instanceof SyscallError && errnos.includes(error.errno);
}

/** Options that old kernels lack. ENOPROTOOPT is ignored: the decoder handles both forms. */
function setIfKnown(fd: number, option: number): void {
  try {
    setOption(fd, C.SOL_NETLINK, option, 1);
  } catch (error) {
    if (!isErrno(error, constants.errno.ENOPROTOOPT)) throw error;
  }
}

/** SO_RCVBUFFORCE ignores net.core.rmem_max but needs CAP_NET_ADMIN; without it SO_RCVBUF has to do. */
function growReceiveBuffer(fd: number, sizeBytes: number): void {
  try {
    setOption(fd, C.SOL_SOCKET, C.SO_RCVBUFFORCE, sizeBytes);
  } catch (error) {
    if (!isErrno(error, constants.errno.EPERM)) throw error;
    setOption(fd, C.SOL_SOCKET, C.SO_RCVBUF, sizeBytes);
  }
}

class KernelTransport implements NetlinkTransport {
  readonly portId: number;
  readonly receiveBufferBytes: number;
  readonly #fd: number;
  #buffer = new Uint8Array(FIRST_BUFFER_BYTES);

  constructor(fd: number, options: TransportOptions) {
    this.#fd = fd;
    setIfKnown(fd, C.NETLINK_EXT_ACK);
    setIfKnown(fd, C.NETLINK_CAP_ACK);
    if (options.receiveBufferBytes !== undefined) growReceiveBuffer(fd, options.receiveBufferBytes);
    this.receiveBufferBytes = getOption(fd, C.SOL_SOCKET, C.SO_RCVBUF);
    this.portId = bindSocket(fd);
  }

  send(datagram: Uint8Array): Promise<void> {
    return sendOffLoop(this.#fd, datagram);
  }

  receive(): ReceivedDatagram | undefined {
    try {
      this.#makeRoom(receive(this.#fd, this.#buffer.subarray(0, 0), C.MSG_PEEK));
      return this.#take(receive(this.#fd, this.#buffer, 0));
    } catch (error) {
      if (isErrno(error, constants.errno.EAGAIN)) return undefined;
      throw error;
    }
  }

  async receiveOffLoop(): Promise<ReceivedDatagram | undefined> {
    try {
      this.#makeRoom(await receiveOffLoop(this.#fd, this.#buffer.subarray(0, 0), C.MSG_PEEK));
      return this.#take(await receiveOffLoop(this.#fd, this.#buffer, 0));
    } catch (error) {
      if (isErrno(error, constants.errno.EAGAIN)) return undefined;
      throw error;
    }
  }

  async joinGroup(groupId: number): Promise<void> {
    await setOptionOffLoop(this.#fd, C.SOL_NETLINK, C.NETLINK_ADD_MEMBERSHIP, groupId);
  }

  /**
   * koffi runs a poll callback outside Node's callback scope: promises settled there would wait for the next unrelated
   * event, and an exception would surface elsewhere. So the reading is done in a `setImmediate`, with the watch
   * stopped meanwhile. That also restarts it after a pending socket error (ENOBUFS), on which libuv stops by itself.
   */
  watch(onReadable: () => void, keepsProcessAlive: boolean): ReadWatch {
    let running = true;
    const read = (): void => {
      if (!running) return;
      try {
        onReadable();
      } finally {
        if (running) handle.start({ readable: true }, call);
      }
    };
    const call = (): void => {
      handle.stop();
      setImmediate(read);
    };
    const handle = koffi.node.poll(this.#fd, { readable: true }, call);
    if (!keepsProcessAlive) handle.unref();
    const stop = (): void => {
      if (!running) return;
      running = false;
      process.off("exit", stop);
      handle.stop();
      handle.close();
    };
    // A callback while Node takes its environment down would be a fatal error in koffi.
    process.once("exit", stop);
    return { stop };
  }

  close(): void {
    closeSocket(this.#fd);
  }

  #makeRoom(peeked: Received): void {
    if (peeked.lengthBytes <= this.#buffer.length) return;
    this.#buffer = new Uint8Array(Math.min(peeked.lengthBytes, MAXIMUM_BUFFER_BYTES));
  }

  #take(received: Received): ReceivedDatagram {
    const lengthBytes = Math.min(received.lengthBytes, this.#buffer.length);
    return {
      bytes: this.#buffer.slice(0, lengthBytes),
      senderPortId: received.senderPortId,
      truncated: received.lengthBytes > lengthBytes,
    };
  }
}

/**
 * Opens and binds a generic netlink socket with extended and capped acknowledgements where the kernel has them.
 *
 * @throws SyscallError EPROTONOSUPPORT or EAFNOSUPPORT on a kernel without netlink; EMFILE and the like
 */
export function openKernelTransport(options: TransportOptions = {}): NetlinkTransport {
  const fd = openSocket();
  try {
    return new KernelTransport(fd, options);
  } catch (error) {
    closeSocket(fd);
    throw error;
  }
}
