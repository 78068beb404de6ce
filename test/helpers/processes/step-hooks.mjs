// @ts-check
/**
 * Module hooks for step-worker.mjs: every import of a file of the libc binding gets a module that counts the calls.
 *
 * The wrapper's text is made from the names that the real module exports.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const LIBC = /\/dist\/src\/sys\/libc\/(?!bind\.)\w+\.js$/;

/** @type {import("node:module").ResolveHook} */
export async function resolve(specifier, context, nextResolve) {
  const resolved = await nextResolve(specifier, context);
  return LIBC.test(resolved.url) ? { ...resolved, url: `${resolved.url}?counted` } : resolved;
}

/** @type {import("node:module").LoadHook} */
export async function load(url, context, nextLoad) {
  if (!url.endsWith("?counted")) return nextLoad(url, context);
  const real = url.replace("?counted", "?real");
  const text = readFileSync(fileURLToPath(real.replace("?real", "")), "utf8");
  const names = [...text.matchAll(/^export (?:const|function) (\w+)/gm)].map(([, name]) => name);
  const lines = names.map((name) => `export const ${name} = globalThis.countCalls("${name}", real.${name});`);
  return {
    format: "module",
    shortCircuit: true,
    source: [`import * as real from "${real}";`, ...lines].join("\n"),
  };
}
