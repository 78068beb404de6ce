/**
 * A plain NBD server for tests of src/nbd: node's own sockets, one buffer as the export, no worker, no source.
 *
 * It connects the handshake, the framer, the check and the codec as simply as possible, so that a test with a foreign
 * client tests these alone.
 */

import { createServer, type Server, type Socket } from "node:net";
import type { NbdExport } from "../../../src/nbd/handshake/export.ts";
import { ServerHandshake, type ServerHandshakeResult } from "../../../src/nbd/handshake/server.ts";
import { checkRequest, PAYLOAD_TOO_LONG, payloadBytes } from "../../../src/nbd/request-check.ts";
import { RequestFramer } from "../../../src/nbd/request-framer.ts";
import { encodeReplyInto, NBD_CMD_DISC, newRequest, SIMPLE_REPLY_BYTES } from "../../../src/nbd/wire.ts";

/** A listening server; close it with `close()`. */
export interface PlainNbdServer {
  readonly server: Server;
  /** How the handshakes went, in order. */
  readonly results: ServerHandshakeResult[];
  close(): Promise<void>;
}

/** Serves `content` under each of `exports` on a unix socket. */
export async function servePlainly(
  path: string,
  exports: readonly NbdExport[],
  content: Buffer,
): Promise<PlainNbdServer> {
  const results: ServerHandshakeResult[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => sockets.delete(socket));
    serveOne(socket, exports, content, results);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const close = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      for (const socket of sockets) socket.destroy();
    });
  return { server, results, close };
}

function serveOne(
  socket: Socket,
  exports: readonly NbdExport[],
  content: Buffer,
  results: ServerHandshakeResult[],
): void {
  const handshake = new ServerHandshake(exports);
  const framer = new RequestFramer(new Uint8Array(4096));
  socket.write(handshake.greeting);
  socket.on("data", (chunk: Buffer) => {
    let bytes: Uint8Array = chunk;
    if (handshake.result === undefined) {
      socket.write(handshake.receive(chunk));
      const result = over(handshake);
      if (result === undefined) return;
      results.push(result);
      if (result.kind === "ended") return void socket.end();
      bytes = handshake.remainder;
    }
    transmit(socket, framer, bytes, content);
  });
}

/** The result after a receive: the compiler would take it for the undefined it was before. */
function over(handshake: ServerHandshake): ServerHandshakeResult | undefined {
  return handshake.result;
}

function transmit(socket: Socket, framer: RequestFramer, bytes: Uint8Array, content: Buffer): void {
  const request = newRequest();
  for (let at = 0; at < bytes.length; ) {
    const count = Math.min(framer.space, bytes.length - at);
    framer.inbox.set(bytes.subarray(at, at + count), framer.receiveAt);
    framer.received(count);
    at += count;
    while (framer.next(request)) {
      const payload = payloadBytes(request);
      if (request.type === NBD_CMD_DISC || payload === PAYLOAD_TOO_LONG) return void socket.end();
      framer.skip(payload);
      const errno = checkRequest(request, content.length, true);
      const header = new Uint8Array(SIMPLE_REPLY_BYTES);
      encodeReplyInto(header, 0, errno, request.cookieHigh, request.cookieLow);
      socket.write(header);
      if (errno === 0)
        socket.write(content.subarray(request.offsetBytes, request.offsetBytes + request.lengthBytes));
    }
  }
}
