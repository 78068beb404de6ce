/** A device's record, for tests that write records. */
import type { NewRecord } from "../../src/manager/records/record.ts";

/** A record of a serving device with plain values. */
export function newRecord(identifier: string, changes: Partial<NewRecord> = {}): NewRecord {
  return {
    identifier,
    interface: "netlink",
    index: 3,
    image: {
      type: "file",
      path: "/images/a.erofs",
      identity: {
        kind: "file",
        device: "8:1",
        inode: "18446744073709551615",
        sizeBytes: 4096,
        mtimeNs: "-1",
      },
    },
    imageHandle: null,
    sizeBytes: 4096,
    blockSizeBytes: 4096,
    connections: 1,
    timeoutSeconds: 0,
    deadTimeoutSeconds: 86_400,
    ioTimeoutMs: 1000,
    hangTimeoutMs: 3000,
    autoclear: false,
    workers: [{ pid: 10, startTime: "77" }],
    client: null,
    lentTo: null,
    history: {
      past: { requests: 0, readBytes: 0, readErrors: 0 },
      failovers: { takeovers: 0, reconnects: 0, failedFailovers: 0, handovers: 0 },
      lastFailover: null,
    },
    ...changes,
  };
}
