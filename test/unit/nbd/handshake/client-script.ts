/** What a server says in the tests of the client's handshake, and a client that hears it. */
import { type ClientGoal, ClientHandshake } from "../../../helpers/nbd/handshake-client.ts";
import {
  type Cut,
  feedHandshake,
  hexBytes,
  hexString,
  hexReply as reply,
  uncut,
} from "../../../helpers/nbd/handshake-pair.ts";

export const GO: ClientGoal = { kind: "go", exportName: "disk" };
export const LIST: ClientGoal = { kind: "list" };

export const greeting = "'NBDMAGIC' 'IHAVEOPT' 0003";
export const exportInfo = (option: number, size = "0000000000010000"): string =>
  reply(option, "00000003", `0000 ${size} 0103`);
export const ack = (option: number): string => reply(option, "00000001");
export const listed = (name: string, description = ""): string =>
  reply(3, "00000002", `${hexString(name)} '${description}'`);

/** Runs a client against a server's words and returns what it said, in hexadecimal, and how it ended. */
export function run(
  goal: ClientGoal,
  server: string,
  cut: Cut = uncut,
): { said: string; client: ClientHandshake } {
  const client = new ClientHandshake(goal);
  const said = Buffer.from(feedHandshake(client, hexBytes(server), cut)).toString("hex");
  return { said, client };
}
