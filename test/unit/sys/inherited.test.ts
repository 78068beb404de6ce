/** Descriptors that this process would hand on, which are told from those that it opened itself by their flag. */
import { closeSync, fstatSync, openSync } from "node:fs";
import { afterEach, beforeEach, expect, test } from "vitest";
import { closeInherited, keepInherited } from "../../../src/sys/inherited.ts";
import { close, keepAcrossExec } from "../../../src/sys/libc/files.ts";
import { isCloseOnExec } from "../../helpers/sockets/descriptors.ts";

let low: number;
let own: number;
let given: number;

beforeEach(() => {
  [low, own, given] = [openSync("/dev/null", "r"), openSync("/dev/null", "r"), openSync("/dev/null", "r")];
  for (const fd of [low, given]) keepAcrossExec(fd);
});
afterEach(() => {
  closeSync(low);
  closeSync(own);
  close(given);
});

test("closeInherited closes those that were given, from the number on, and nothing of our own", () => {
  closeInherited(low + 1);
  expect(() => fstatSync(given)).toThrow("EBADF");
  for (const fd of [low, own]) expect(fstatSync(fd).isCharacterDevice()).toBe(true);
});

test("keepInherited keeps them, for this process alone", () => {
  keepInherited(low + 1);
  expect([low, own, given].map(isCloseOnExec)).toEqual([false, true, true]);
});
