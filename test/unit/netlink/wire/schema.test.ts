/** schema.ts: attribute names by position, command names. */
import { describe, expect, test } from "vitest";
import {
  attributeNameAt,
  CONTROLLER_SCHEMA,
  NBD_SCHEMA,
  nameOfCommand,
} from "../../../../netlink/wire/schema.ts";
import { attribute, text, uint } from "../encode.ts";

describe("attributeNameAt", () => {
  const bytes = Buffer.concat([
    attribute(1, uint(4, 3)),
    attribute(99, uint(4, 0)),
    attribute(7, attribute(1, attribute(1, uint(4, 5))), attribute(9, uint(4, 5))),
  ]);

  test.each([
    [0, "NBD_ATTR_INDEX"],
    [4, "NBD_ATTR_INDEX"],
    [8, "attribute 99"],
    [16, "NBD_ATTR_SOCKETS"],
    [20, "NBD_ATTR_SOCKETS.NBD_SOCK_ITEM"],
    [24, "NBD_ATTR_SOCKETS.NBD_SOCK_ITEM.NBD_SOCK_FD"],
    [32, "NBD_ATTR_SOCKETS.attribute 9"],
    [2, undefined],
    [40, undefined],
    [-4, undefined],
  ])("offset %i is %s", (offset, name) => {
    expect(attributeNameAt(bytes, offset, NBD_SCHEMA.attributes)).toBe(name);
  });

  test("goes through arrays whose types only count", () => {
    const groups = attribute(7, attribute(1, attribute(1, text("a"))), attribute(2, attribute(1, text("b"))));
    expect(attributeNameAt(groups, 20, CONTROLLER_SCHEMA.attributes)).toBe(
      "CTRL_ATTR_MCAST_GROUPS.GROUP.CTRL_ATTR_MCAST_GRP_NAME",
    );
  });
});

test("nameOfCommand", () => {
  expect([1, 2, 3, 4, 5, 6].map((command) => nameOfCommand(NBD_SCHEMA, command))).toEqual([
    "CONNECT",
    "DISCONNECT",
    "RECONFIGURE",
    "LINK_DEAD",
    "STATUS",
    "command 6",
  ]);
});
