/** A LinkSet over the fake server, and what it reports, for the tests of links/. */
import { type LinkPlan, LinkSet } from "../../../../src/supervisor/links/link-set.ts";
import { openSockets } from "../../../helpers/sockets/descriptors.ts";
import { FakeLinkServer } from "../fake-server.ts";

const PLAN: LinkPlan = {
  settings: { identifier: "one of ours", connections: 1, hangTimeoutMs: 2000 },
  image: {
    spec: {
      type: "file",
      path: "/any",
      identity: { kind: "file", device: "8:1", inode: "5", sizeBytes: 4096, mtimeNs: "0" },
    },
    fd: -1,
    blockSizeBytes: 4096,
  },
  inFlight: () => 0,
  deviceIndex: () => undefined,
  below: () => [],
  isCounted: () => true,
};

export const NEVER: AbortSignal = new AbortController().signal;

export function make(count: number): { links: LinkSet; server: FakeLinkServer; heard: string[] } {
  const server = new FakeLinkServer();
  const heard: string[] = [];
  const plan = { ...PLAN, settings: { ...PLAN.settings, connections: count } };
  const links = new LinkSet(plan, server, {
    lost: ({ cause, witness }) => heard.push(`lost: ${cause} (${witness})`),
    orphaned: ({ cause, silentMs }) => heard.push(`orphaned: ${cause} (${silentMs} ms)`),
    moved: (workerPid, stallMs) => heard.push(`moved to ${workerPid} in ${stallMs} ms`),
    explained: ({ cause, witness }) => heard.push(`explained: ${cause} (${witness})`),
    disconnected: () => heard.push("disconnected"),
    readErrors: (message, times) => heard.push(`${times} × ${message}`),
    exactness: () => {},
    repinned: () => heard.push("repinned"),
  });
  return { links, server, heard };
}

/** Whether a kernel end is still open in this process; numbers are used again, socket names are not. */
export const isOpen = (socket: string): boolean => [...openSockets().values()].includes(socket);
