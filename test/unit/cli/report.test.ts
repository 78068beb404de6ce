/**
 * Errors of every origin as lines and exit codes; results of several targets as one exit code.
 */
import { CommanderError } from "commander";
import { describe, expect, test } from "vitest";
import { NetlinkError } from "../../../netlink/index.ts";
import { exitCodeOfResults } from "../../../src/cli/commands/detach.ts";
import { exitCodeOfError, formatError } from "../../../src/cli/report.ts";
import { ControlError } from "../../../src/control/client.ts";
import { faultOf } from "../../../src/control/fault.ts";
import type { DetachResult } from "../../../src/control/protocol.ts";
import { ErofsNbdError, exitCodeOf } from "../../../src/errors.ts";
import { SystemError } from "../../../src/sys/errno.ts";

const netlinkError = new NetlinkError({
  code: "ERR_NETLINK_REFUSED",
  origin: "ack",
  purpose: "connect nbd3",
  command: "CONNECT",
  errno: 16,
  hint: "choose another index",
});

describe("exit codes", () => {
  test.each([
    ["an ErofsNbdError, by its code", new ErofsNbdError("ERR_NOT_ATTACHED", "cannot x: y"), 3],
    ["an interruption", new ErofsNbdError("ERR_INTERRUPTED", "cannot x: y"), 8],
    ["the manager's verdict", new ControlError({ code: "ERR_X", message: "cannot x", exitCode: 32 }), 32],
    [
      "the verdict of a former manager",
      new ControlError({ code: "ERR_X", message: "Cannot x: y", exitCode: 3 }),
      3,
    ],
    ["a known code on another class", Object.assign(new Error("invalid x"), { code: "ERR_BAD_ARGUMENT" }), 1],
    ["an argument error of Node's", Object.assign(new TypeError("x"), { code: "ERR_INVALID_ARG_TYPE" }), 4],
    ["the kernel's refusal", netlinkError, 2],
    [
      "a netlink error without errno",
      Object.assign(new Error("cannot x"), { code: "ERR_NETLINK_TIMEOUT" }),
      2,
    ],
    ["a failed system call", new SystemError("listen on", 98, "/x"), 2],
    ["an error of Node's", Object.assign(new Error("ENOSPC: x"), { errno: -28, code: "ENOSPC" }), 2],
    ["wrong usage", new CommanderError(1, "commander.unknownOption", "error: unknown option '-x'"), 1],
    ["help that was asked for", new CommanderError(0, "commander.helpDisplayed", "(outputHelp)"), 0],
    ["a bug", new TypeError("x is not a function"), 4],
    ["something thrown that is no error", "text", 4],
    ["an exit code that is not in the contract", Object.assign(new Error("x"), { exitCode: 99 }), 4],
  ])("%s", (_, error, code) => {
    expect(exitCodeOfError(error)).toBe(code);
  });
});

describe("what a manager reports", () => {
  const reported = new ControlError({
    code: "ERR_NETLINK_REFUSED",
    message: "cannot x: y",
    hint: "z",
    exitCode: 2,
  });

  test("is an ErofsNbdError, so that one class catches both", () => {
    expect(reported).toBeInstanceOf(ErofsNbdError);
    expect(reported).toMatchObject({ name: "ControlError", code: "ERR_NETLINK_REFUSED", hint: "z" });
  });

  test("keeps its exit code when it is passed on; an unknown exit code is replaced by that of its code", () => {
    const mountFailed = { code: "ERR_NETLINK_REFUSED", message: "cannot x: y", exitCode: 32 as const };
    expect(exitCodeOf(new ControlError(mountFailed))).toBe(32);
    expect(faultOf(new ControlError({ ...mountFailed, hint: "z" }))).toEqual({ ...mountFailed, hint: "z" });
    const later = { ...mountFailed, code: "ERR_NOT_ATTACHED", exitCode: 99 as unknown as 32 };
    expect(exitCodeOf(new ControlError(later))).toBe(3);
    expect(exitCodeOf(new ControlError({ ...later, code: "ERR_OF_LATER" }))).toBe(2);
  });
});

describe("lines", () => {
  test("an error is one line, its hint another", () => {
    expect(formatError(netlinkError, false)).toBe(
      "erofs-nbd: cannot connect nbd3: EBUSY (16) from CONNECT, no kernel message\nhint: choose another index\n",
    );
  });

  test("--verbose adds code, causes and stack", () => {
    const cause = new Error("the disk is on fire");
    const text = formatError(new ErofsNbdError("ERR_IMAGE", "cannot open x: y", { cause }), true);
    expect(text).toMatch(/^code: ERR_IMAGE$/m);
    expect(text).toMatch(/^caused by: Error: the disk is on fire$/m);
    expect(text).toMatch(/^ {4}at /m);
  });

  test("a file name with a line break stays on the line", () => {
    const text = formatError(new ErofsNbdError("ERR_IMAGE", "cannot open a\nb: it is empty"), false);
    expect(text).toBe("erofs-nbd: cannot open a\\nb: it is empty\n");
  });

  test("what a terminal obeys is shown and not sent, in message, hint and code", () => {
    const fault = { code: "ERR_\u001b[2J", message: "cannot x: \u009b2J\r\u202ey", hint: "a\u2028\u0007" };
    const text = formatError(new ControlError({ ...fault, exitCode: 2 }), true);
    expect(text.split("\n").slice(0, 3)).toEqual([
      "erofs-nbd: cannot x: \\x9b2J\\x0d\\u202ey",
      "hint: a\\u2028\\x07",
      "code: ERR_\\x1b[2J",
    ]);
    const unknown = new CommanderError(1, "commander.unknownOption", "error: unknown option '--\u001b[2J'");
    expect(formatError(unknown, false)).toContain("unknown option '--\\x1b[2J'\n");
  });

  test("no line of a stack or a cause passes for a line of erofs-nbd", () => {
    const forged = "x\nerofs-nbd: all is well\u001b[2J\nhint: sleep";
    const cause = new Error(forged);
    const texts = [
      formatError(new ErofsNbdError("ERR_IMAGE", `cannot ${forged}`, { cause }), true),
      formatError(new ErofsNbdError("ERR_IMAGE", "cannot x: y", { cause: forged }), true),
      formatError(new TypeError(forged), false),
    ];
    for (const text of texts) {
      expect(text).not.toMatch(/^(erofs-nbd: all|hint: sleep)/m);
      expect(text).not.toContain("\u001b");
    }
  });

  test("a bug shows its stack unasked and asks for a report", () => {
    const text = formatError(new TypeError("x is not a function"), false);
    expect(text).toMatch(/^erofs-nbd: internal error \(a bug in erofs-nbd\): x is not a function$/m);
    expect(text).toMatch(/^hint: .*report/m);
    expect(text).toMatch(/^ {4}at /m);
  });

  test("system errors of Node.js are reworded", () => {
    const error = Object.assign(new Error("EACCES: permission denied, open '/x'"), {
      errno: -13,
      code: "EACCES",
      syscall: "open",
      path: "/x",
    });
    expect(formatError(error, false)).toBe("erofs-nbd: cannot open /x: EACCES\n");
  });

  test("wrong usage is printed with commander's suggestion, and the hint names the help", () => {
    const unknown = new CommanderError(1, "commander.unknownOption", "error: unknown option '--foo'");
    expect(formatError(unknown, false, "attach")).toBe(
      "erofs-nbd: unknown option '--foo'\nhint: see erofs-nbd attach --help\n",
    );
    const close = new CommanderError(
      1,
      "commander.unknownOption",
      "error: unknown option '--forse'\n(Did you mean --force?)",
    );
    expect(formatError(close, false)).toBe(
      "erofs-nbd: unknown option '--forse' (did you mean --force?)\nhint: erofs-nbd --help lists the commands\n",
    );
  });

  test("help that was printed leaves nothing to say", () => {
    expect(formatError(new CommanderError(0, "commander.helpDisplayed", "(outputHelp)"), false)).toBe("");
    expect(formatError(new CommanderError(1, "commander.help", "(outputHelp)"), false)).toBe("");
  });
});

test("several detaches are one exit code", () => {
  const result = (exitCode: 0 | 2 | 3): DetachResult => ({
    target: { index: 1 },
    device: null,
    error: exitCode === 0 ? null : { code: "ERR_X", message: "cannot x", exitCode },
  });
  const codeOf = (...codes: Array<0 | 2 | 3>): number => exitCodeOfResults(codes.map(result));
  expect(codeOf()).toBe(0);
  expect(codeOf(0, 0)).toBe(0);
  expect(codeOf(3, 3)).toBe(3);
  expect(codeOf(2)).toBe(2);
  expect(codeOf(0, 3)).toBe(64);
  expect(codeOf(2, 0)).toBe(64);
  expect(codeOf(3, 2)).toBe(2);
});
