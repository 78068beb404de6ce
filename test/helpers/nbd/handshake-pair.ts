/**
 * Lets the two handshakes talk to each other, or one of them listen to a script, with every message cut as a test
 * wants.
 */

import type { ServerHandshake } from "../../../src/nbd/handshake/server.ts";
import type { ClientHandshake } from "./handshake-client.ts";

/** Cuts a message into the pieces in which it arrives. */
export type Cut = (message: Uint8Array) => Uint8Array[];

/** Bytes from hexadecimal digits; blanks are for the reader, and 'text' stands for its UTF-8 bytes. */
export function hexBytes(text: string): Uint8Array {
  const hex = text
    .replace(/'([^']*)'/g, (_, chars: string) => Buffer.from(chars).toString("hex"))
    .replace(/\s/g, "");
  return Uint8Array.from(Buffer.from(hex, "hex"));
}

/** A 32-bit number for {@link hexBytes}. */
export const hexU32 = (value: number): string => value.toString(16).padStart(8, "0");

/** A string with its length before it, for {@link hexBytes}. */
export const hexString = (text: string): string => `${hexU32(Buffer.byteLength(text))} '${text}'`;

/** An option that a client sends, for {@link hexBytes}: its header and `data`. */
export function hexOption(option: number, data = ""): string {
  const bytes = hexBytes(data);
  return `'IHAVEOPT' ${hexU32(option)} ${hexU32(bytes.length)} ${Buffer.from(bytes).toString("hex")}`;
}

/** An option reply for {@link hexBytes}, its header around `data`; `type` is eight digits. */
export function hexReply(option: number, type: string, data = ""): string {
  const bytes = hexBytes(data);
  return `0003e889045565a9 ${hexU32(option)} ${type} ${hexU32(bytes.length)} ${Buffer.from(bytes).toString("hex")}`;
}

/** Whole messages. */
export const uncut: Cut = (message) => [message];

/** Byte by byte. */
export const bytewise: Cut = (message) => Array.from(message, (byte) => Uint8Array.of(byte));

/** In two after `at` bytes. */
export function cutAt(at: number): Cut {
  return (message) => [message.subarray(0, at), message.subarray(at)].filter((piece) => piece.length > 0);
}

/** Runs both sides until neither says anything more; returns what each has sent. */
export function converse(
  server: ServerHandshake,
  client: ClientHandshake,
  cut: Cut,
): { sent: Uint8Array; received: Uint8Array } {
  const toClient: Uint8Array[] = [server.greeting];
  const toServer: Uint8Array[] = [];
  const sent: Uint8Array[] = [];
  const received: Uint8Array[] = [];
  while (toClient.length + toServer.length > 0) {
    for (const piece of toClient.splice(0).flatMap(cut)) {
      received.push(piece);
      if (client.result === undefined) toServer.push(client.receive(piece));
    }
    for (const piece of toServer.splice(0).flatMap(cut)) {
      sent.push(piece);
      if (server.result === undefined) toClient.push(server.receive(piece));
    }
    if (toClient.every((message) => message.length === 0)) toClient.length = 0;
  }
  return { sent: Uint8Array.from(Buffer.concat(sent)), received: Uint8Array.from(Buffer.concat(received)) };
}

/** Feeds `bytes` to one side in pieces until it is over; returns all it answered. */
export function feedHandshake(
  side: ServerHandshake | ClientHandshake,
  bytes: Uint8Array,
  cut: Cut,
): Uint8Array {
  const answers: Uint8Array[] = [];
  for (const piece of cut(bytes)) if (side.result === undefined) answers.push(side.receive(piece));
  return Uint8Array.from(Buffer.concat(answers));
}
