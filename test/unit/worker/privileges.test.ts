/** Which account a worker becomes. That it becomes it is tested in a kernel, where there is a root to stop being. */
import { expect, test } from "vitest";
import { chooseAccount } from "../../../src/worker/privileges.ts";

const NOBODY = { uid: 65_534, gid: 65_534 };

test.each([
  [
    "its own account",
    "root:x:0:0::/:/bin/sh\nerofs-nbd:x:990:991::/:/sbin/nologin\n",
    { uid: 990, gid: 991 },
  ],
  ["nobody where there is none", "root:x:0:0::/:/bin/sh\n", NOBODY],
  ["nobody on a system without accounts", "", NOBODY],
  ["not root, whatever the account says", "erofs-nbd:x:0:0::/:/bin/sh\n", NOBODY],
  ["not root's group either", "erofs-nbd:x:990:0::/:/bin/sh\n", NOBODY],
  ["nobody where the line is broken", "erofs-nbd:x:abc:\nerofs-nbd\n", NOBODY],
  ["not one with a similar name", "erofs-nbd2:x:990:991::/:/bin/sh\n", NOBODY],
])("%s", (_, passwd, account) => {
  expect(chooseAccount(passwd)).toEqual(account);
});
