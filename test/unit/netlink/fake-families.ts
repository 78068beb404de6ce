/**
 * A fake kernel that knows families: answers GETFAMILY by itself and hands everything else to the test.
 *
 * The registry can be changed during a test, as a module reload changes the kernel's. Used by the unit tests of the
 * clients.
 */
import { createFakeTransport, type FakeKernel, type FakeTransport } from "../../../netlink/index.ts";
import { ack, done, familyAttributes, generic, message, readRequest } from "./encode.ts";

export interface FakeFamily {
  id: number;
  groups: Record<string, number>;
}

export type Handler = (request: Uint8Array, kernel: FakeKernel) => void | Promise<void>;

export interface FakeFamilies {
  readonly families: Map<string, FakeFamily>;
  readonly openTransport: (options: { readonly receiveBufferBytes?: number | undefined }) => FakeTransport;
  /** Every transport that was opened, in order; the first carries the requests. */
  readonly transports: FakeTransport[];
  /** How often a family was asked for by name. */
  readonly lookUps: string[];
  announce(transport: FakeTransport, command: number, name: string, family: FakeFamily): void;
}

export function acknowledge(request: Uint8Array, kernel: FakeKernel): void {
  kernel.deliver(ack(request));
}

export function createFakeFamilies(handler: Handler = acknowledge): FakeFamilies {
  const families = new Map<string, FakeFamily>([
    ["nlctrl", { id: 16, groups: { notify: 16 } }],
    ["nbd", { id: 28, groups: { nbd_mc_group: 7 } }],
  ]);
  const lookUps: string[] = [];
  const transports: FakeTransport[] = [];

  const answerController = (request: Uint8Array, kernel: FakeKernel): void => {
    const { flags, sequence, familyName } = readRequest(request);
    if ((flags & 0x300) === 0x300) {
      for (const [name, { id, groups }] of families) {
        const body = familyAttributes(name, id, groups);
        kernel.deliver(generic({ type: 16, flags: 2, sequence }, 1, body));
      }
      kernel.deliver(done(request));
      return;
    }
    lookUps.push(familyName);
    const family = families.get(familyName);
    if (family === undefined) {
      kernel.deliver(ack(request, { errno: 2 }));
      return;
    }
    kernel.deliver(
      generic({ type: 16, sequence }, 1, familyAttributes(familyName, family.id, family.groups)),
    );
    kernel.deliver(ack(request));
  };

  const answer: Handler = (request, kernel) => {
    const { type } = readRequest(request);
    if (type === 16) return answerController(request, kernel);
    const isKnown = [...families.values()].some(({ id }) => id === type);
    if (isKnown) return handler(request, kernel);
    kernel.deliver(ack(request, { errno: 2 }));
    return undefined;
  };

  return {
    families,
    lookUps,
    transports,
    openTransport: ({ receiveBufferBytes }) => {
      const transport = createFakeTransport(answer, receiveBufferBytes);
      transports.push(transport);
      return transport;
    },
    announce: (transport, command, name, { id, groups }) => {
      const body = familyAttributes(name, id, groups);
      const payload = [Buffer.from([command, 2, 0, 0]), body];
      transport.deliver(message({ type: 16, sequence: 0, portId: 0 }, ...payload));
    },
  };
}
