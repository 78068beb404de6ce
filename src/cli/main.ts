#!/usr/bin/env node
/**
 * Entry of `erofs-nbd`: loads as little as the command line needs.
 *
 * Most of a short command's time is Node's own start and the loading of files. The build makes one file each of what is
 * waited for (tools/bundle.mjs): the manager, and the commands that talk to one. Everything else, and whatever is not
 * understood here, is run from the files as they are, which is always right. The manager is started by this file as
 * well (`manager --auto`).
 */
import { writeSync } from "node:fs";
import { VERSION } from "../version.ts";
import { loadBundle } from "./code-cache.ts";

/** The commands in client.cjs. */
const CLIENTS = ["attach", "detach", "mount", "umount", "status", "upgrade"];
/** What makes them more than that: a manager of their own, a live table. */
const NOT_CLIENTS = ["--foreground", "--watch"];
const VERBOSE = ["-v", "--verbose"];

/** The command's name, where nothing but the global options stands before it. */
function commandOf(words: readonly string[]): string | undefined {
  let at = 0;
  while (VERBOSE.includes(words[at] ?? "") || words[at] === "--run-dir")
    at += words[at] === "--run-dir" ? 2 : 1;
  return words[at];
}

function bundleFor(words: readonly string[]): string | undefined {
  const command = commandOf(words);
  if (command === "manager") return "manager/main.cjs";
  const isClient =
    command === undefined || command === "--help" || command === "-h" || CLIENTS.includes(command);
  return isClient && !words.some((word) => NOT_CLIENTS.includes(word)) ? "cli/client.cjs" : undefined;
}

/** Without Node's stream, which takes longer to make than all of this. */
function printVersion(): void {
  try {
    writeSync(1, `${VERSION}\n`);
  } catch {
    // EPIPE: whoever read it has gone. EAGAIN: a pipe that is full already.
  }
}

const words = process.argv.slice(2);
const bundle = bundleFor(words);
if (words.length === 1 && (words[0] === "--version" || words[0] === "-V")) printVersion();
else if (bundle !== undefined) loadBundle(bundle);
else void import("./run.ts");
