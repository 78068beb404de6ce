/** What the socket tests share: a socket over a fake kernel, a labelled request, a gate. */
import {
  createFakeTransport,
  type FakeHandler,
  type FakeTransport,
  type NetlinkAnswer,
  type NetlinkRequest,
  NetlinkSocket,
  type NetlinkSocketOptions,
} from "../../../../netlink/index.ts";
import { generic, sequenceOf, uint } from "../encode.ts";

/** A socket whose kernel is `handler`. */
export function open(
  handler: FakeHandler,
  options: NetlinkSocketOptions = {},
): { socket: NetlinkSocket; kernel: FakeTransport } {
  const kernel = createFakeTransport(handler);
  return { kernel, socket: new NetlinkSocket({ ...options, transport: kernel }) };
}

/** A request with a label that the tests look for. */
export function ask(socket: NetlinkSocket, fields: Partial<NetlinkRequest> = {}): Promise<NetlinkAnswer> {
  const label = { purpose: "poke nbd3", command: "POKE", deviceIndex: 3 };
  return socket.request({ type: 28, payload: Uint8Array.of(1, 1, 0, 0), label, ...fields });
}

/** One data message in answer to a request. */
export const answerTo = (request: Uint8Array, value = 1): Buffer =>
  generic({ type: 28, sequence: sequenceOf(request) }, 1, uint(4, value));

/** A promise and its handles. */
export function gate(): { opened: Promise<void>; open: () => void } {
  let openGate = (): void => {};
  const opened = new Promise<void>((resolve) => {
    openGate = resolve;
  });
  return { opened, open: () => openGate() };
}
