#!/usr/bin/env node
/**
 * Entry of `erofs-nbd`: loads as little as the command line needs.
 *
 * Most of a short command's time is the start of Node.js and the loading of files. The build therefore bundles what
 * users wait for (tools/bundle.mjs): the manager, and the commands that talk to one. All other command lines, also
 * those that are not recognised here, run from the separate files, which is always correct. Commands start the manager
 * with this file as well (`manager --auto`).
 */
import { writeSync } from "node:fs";
import { VERSION } from "../version.ts";
import { loadBundle } from "./code-cache.ts";

/** The commands in client.cjs. */
const CLIENTS = ["attach", "detach", "mount", "umount", "status", "upgrade"];
/** Options that need code outside of client.cjs: a manager in this process, a live table. */
const NOT_CLIENTS = ["--foreground", "--watch"];
const VERBOSE = ["-v", "--verbose"];

/** The command's name, if only global options precede it. */
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

/** Without process.stdout, whose creation takes longer than everything else here. */
function printVersion(): void {
  try {
    writeSync(1, `${VERSION}\n`);
  } catch {
    // EPIPE: the reader has closed the pipe. EAGAIN: the pipe is full.
  }
}

const words = process.argv.slice(2);
const bundle = bundleFor(words);
if (words.length === 1 && (words[0] === "--version" || words[0] === "-V")) printVersion();
else if (bundle !== undefined) loadBundle(bundle);
else void import("./run.ts");
