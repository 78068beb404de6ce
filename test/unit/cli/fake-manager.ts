/**
 * A manager that attaches nothing: a control socket whose answers a test writes, and the requests it got.
 *
 * It checks every request with the real schemas, so that the command line cannot drift away from them.
 */
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type {
  ControlFault,
  DeviceEvent,
  DeviceStatus,
  Method,
  Requests,
} from "../../../src/control/protocol.ts";
import { PARAMS } from "../../../src/manager/control-server/params.ts";

/** A fault to answer with. */
export class Fault extends Error {
  readonly fault: ControlFault;

  constructor(fault: ControlFault) {
    super(fault.message);
    this.fault = fault;
  }
}

/** What the manager answers, by method. */
export type Answers = { [M in Method]?: (params: Requests[M]["params"]) => Answer<M> };
type Answer<M extends Method> = Requests[M]["result"] | Promise<Requests[M]["result"]>;

export interface FakeManager {
  /** What it was asked, in order, but for hello. */
  readonly requests: ReadonlyArray<{ readonly method: Method; readonly params: unknown }>;
  /** Sends an event on every connection. */
  tell(event: DeviceEvent): void;
  /** Cuts every connection and stops listening, as a killed manager. */
  close(): Promise<void>;
}

const hello = (): Requests["hello"]["result"] => ({
  version: "0.0.0",
  pid: process.pid,
  takesDescriptors: true,
});

export async function startFakeManager(runDir: string, answers: Answers): Promise<FakeManager> {
  mkdirSync(runDir, { recursive: true, mode: 0o700 });
  const requests: Array<{ method: Method; params: unknown }> = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    // A peer that ends without reading everything resets the connection; readline passes the error on.
    socket.on("error", () => {});
    createInterface(socket)
      .on("line", (line) => void answer(socket, line))
      .on("error", () => {});
  });
  const answer = async (socket: Socket, line: string): Promise<void> => {
    const { id, method, params } = JSON.parse(line) as { id: number; method: Method; params: unknown };
    // Every command says hello first.
    if (method !== "hello") requests.push({ method, params });
    const reply = (rest: object): void => {
      if (socket.writable) socket.write(`${JSON.stringify({ id, ...rest })}\n`);
    };
    try {
      const known = PARAMS[method].parse(params);
      const make = { hello, ...answers }[method] as ((params: unknown) => unknown) | undefined;
      if (make === undefined) throw new Error(`The test has no answer to ${method}`);
      reply({ result: await make(known) });
    } catch (error) {
      const bug = { code: "ERR_INTERNAL", message: String(error), exitCode: 4 };
      reply({ error: error instanceof Fault ? error.fault : bug });
    }
  };
  server.listen(join(runDir, "control.sock"));
  await once(server, "listening");
  return {
    requests,
    tell: (event) => {
      for (const socket of sockets) socket.write(`${JSON.stringify({ event })}\n`);
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

/** The status of an attached device, with what a test wants different. */
export function deviceStatus(changes: Partial<DeviceStatus> = {}): DeviceStatus {
  return {
    device: "/dev/nbd0",
    index: 0,
    state: "serving",
    interface: "netlink",
    identifier: "0b3c1f52-0000-4000-8000-000000000001",
    source: { type: "file", uri: "/images/tree.erofs", sizeBytes: 113_045_504 },
    sizeBytes: 113_045_504,
    blockSizeBytes: 4096,
    readOnly: true,
    mountPoints: [],
    managerPid: 4711,
    links: [{ index: 0, state: "up", workerPid: 4712, generation: 1 }],
    counters: {
      requests: 12,
      readBytes: 49_152,
      readErrors: 0,
      takeovers: 0,
      reconnects: 0,
      failedFailovers: 0,
      handovers: 0,
    },
    lastFailover: null,
    stalledReason: null,
    exact: "lease",
    imageChange: null,
    recent: null,
    ...changes,
  };
}
