/** errors.ts and request.ts: errno names, messages, and the fields of the errors. */
import { describe, expect, test } from "vitest";
import { wrapFailure } from "../../../netlink/client/request.ts";
import { DecodeError, errnoName, NetlinkError, SyscallError } from "../../../netlink/errors.ts";

describe("errnoName", () => {
  test.each([
    [1, "EPERM"],
    [2, "ENOENT"],
    [16, "EBUSY"],
    [22, "EINVAL"],
    [34, "ERANGE"],
    [88, "ENOTSOCK"],
    [95, "EOPNOTSUPP"],
    [105, "ENOBUFS"],
    [512, "errno 512"],
    [0, "errno 0"],
    [-5, "errno -5"],
    [Number.NaN, "errno NaN"],
  ])("%d is %s", (errno, name) => {
    expect(errnoName(errno)).toBe(name);
  });
});

describe("NetlinkError", () => {
  const base = { code: "ERR_NETLINK_REFUSED", purpose: "connect nbd3", command: "CONNECT" } as const;

  test("keeps a refusal by the kernel apart from a failed socket", () => {
    const refused = new NetlinkError({ ...base, origin: "ack", errno: 22 });
    const broke = new NetlinkError({
      ...base,
      origin: "syscall",
      errno: 22,
      reason: "could not send on the socket",
    });
    expect(refused.message).toBe("cannot connect nbd3: EINVAL (22) from CONNECT, no kernel message");
    expect(broke.message).toBe("cannot connect nbd3: could not send on the socket: EINVAL (22)");
  });

  test("has no errno where there is none", () => {
    const error = new NetlinkError({ ...base, origin: "timeout", reason: "too late" });
    expect(error.message).toBe("cannot connect nbd3: too late");
    expect(error).toMatchObject({ errno: undefined, errnoName: undefined });
  });
});

describe("wrapFailure", () => {
  const label = { purpose: "connect nbd3", command: "CONNECT", deviceIndex: 3 };

  test("keeps the cause and adds the request", () => {
    const decode = new DecodeError("length lies", 4);
    expect(wrapFailure(label, decode, 9)).toMatchObject({
      origin: "decode",
      cause: decode,
      sequence: 9,
      deviceIndex: 3,
    });
    const syscall = new SyscallError("open", 24);
    expect(wrapFailure({ ...label, command: "OPEN" }, syscall)).toMatchObject({
      origin: "syscall",
      errnoName: "EMFILE",
      hint: expect.stringContaining("ulimit"),
    });
  });

  test("returns a NetlinkError and any other error as it is", () => {
    const own = wrapFailure(label, new DecodeError("x", 0));
    expect(wrapFailure(label, own)).toBe(own);
    const bug = new TypeError("bug");
    expect(wrapFailure(label, bug)).toBe(bug);
    expect(wrapFailure(label, "text")).toMatchObject({ message: "text" });
  });
});
