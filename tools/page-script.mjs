// @ts-check
/** The script of the chaos report's page (src/chaos/report/page/) as one file for browsers. Used by bundle.mjs and tests. */
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Where the build leaves it. */
export const PAGE_SCRIPT = "dist/src/chaos/report/page.js";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** The script's text. It expects the global `uPlot`. */
export async function bundlePageScript() {
  const { outputFiles } = await build({
    absWorkingDir: ROOT,
    entryPoints: ["src/chaos/report/page/page.ts"],
    bundle: true,
    platform: "browser",
    format: "iife",
    target: "es2022",
    charset: "utf8",
    // Names are kept, so that the script is readable in a browser's tools.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: "none",
    write: false,
    logLevel: "warning",
  });
  return outputFiles[0]?.text ?? "";
}
