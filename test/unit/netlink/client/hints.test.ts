/** hints.ts: every row is reachable, and each has a remedy for its failure. */
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { HINTS, hintFor } from "../../../../netlink/client/hints.ts";
import { errnoName } from "../../../../netlink/errors.ts";

const E = constants.errno;

/** What each row must say, row by row: family, command and errno to ask with, and a word of the answer. */
const EXPECTED: readonly (readonly [string, string, number, RegExp])[] = [
  ["nbd", "GETFAMILY", E.ENOENT, /modprobe nbd/],
  ["nbd", "CONNECT", E.EBUSY, /another index or none/],
  ["nbd", "CONNECT", E.EEXIST, /try again/],
  ["nbd", "CONNECT", E.EINVAL, /block size.*CAN_MULTI_CONN.*kernel log/],
  ["nbd", "RECONFIGURE", E.EINVAL, /backend identifier.*kernel log/],
  ["nbd", "DISCONNECT", E.EINVAL, /no such device/],
  ["nbd", "RECONFIGURE", E.EBADF, /open in this process/],
  ["nbd", "CONNECT", E.ENOTSOCK, /pass sockets/],
  ["nbd", "CONNECT", E.EPERM, /CAP_SYS_ADMIN/],
  ["nbd", "CONNECT", E.ERANGE, /EROFS_NBD_DEBUG=netlink/],
  ["nbd", "CONNECT", E.ENOMEM, /free memory/],
  ["other", "GETFAMILY", E.ENOENT, /kernel module/],
  ["other", "ANY", E.EPERM, /capability/],
  ["nbd", "STATUS", E.EOPNOTSUPP, /kernel's version/],
  ["nbd", "CONNECT", E.ENOBUFS, /unknown/],
  ["*", "OPEN", E.EPROTONOSUPPORT, /CONFIG_NET/],
  ["*", "OPEN", E.EAFNOSUPPORT, /AF_NETLINK/],
  ["*", "OPEN", E.EMFILE, /ulimit/],
];

describe("hintFor", () => {
  test.each(EXPECTED)("%s %s errno %i", (family, command, errno, words) => {
    expect(hintFor(family, command, errno)).toMatch(words);
  });

  test("every row of the table is reached by one of the cases above", () => {
    const reached = new Set(EXPECTED.map(([family, command, errno]) => hintFor(family, command, errno)));
    const unreached = HINTS.filter((row) => !reached.has(row.hint));
    expect(unreached.map((row) => `${row.family} ${row.command} ${errnoName(row.errno)}`)).toEqual([]);
    expect(EXPECTED).toHaveLength(HINTS.length);
  });

  test("has no hint for other failures", () => {
    expect(hintFor("nbd", "STATUS", E.EINVAL)).toBeUndefined();
    expect(hintFor("nbd", "CONNECT", undefined)).toBeUndefined();
    expect(hintFor("other", "CONNECT", E.EBUSY)).toBeUndefined();
  });

  test("every hint is one line without a final period", () => {
    for (const { hint } of HINTS) expect(hint).toMatch(/^[^\n]+[^.\n]$/);
  });
});
