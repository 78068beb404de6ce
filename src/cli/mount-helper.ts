#!/usr/bin/env node
/**
 * Entry of `mount.erofs.nbd`, which mount(8) runs for `mount -t erofs.nbd` and for fstab lines of that type.
 *
 * Parses the arguments, calls mountImage(), and ends with an exit code of mount(8). Nothing imports it. It does not
 * load commander, because many of these processes may run at boot.
 */
import { EXIT, hasCode } from "../errors.ts";
import { VERSION } from "../version.ts";
import { CliContext } from "./context.ts";
import { type HelperCall, readHelperCall, USAGE } from "./mount/mount-call.ts";
import { exitCodeOfError, formatError } from "./report.ts";

async function main(argv: readonly string[]): Promise<number> {
  const context = new CliContext();
  let call: HelperCall | undefined;
  try {
    call = readHelperCall(argv);
    if (call.wants !== "mount") {
      await context.print(call.wants === "help" ? USAGE : VERSION);
      return EXIT.done;
    }
    context.begin("mount", call.isVerbose ? { verbose: true } : {});
    const { ignored } = call.request.options;
    if (ignored.length > 0) context.detail(`unknown options are ignored: ${ignored.join(", ")}`);
    // Loaded here, so that an installation without koffi is reported as any other error.
    const { mountImage } = await import("./mount/mount-image.ts");
    await mountImage(context, call.request);
    return EXIT.done;
  } catch (error) {
    process.stderr.write(formatError(error, context.isVerbose));
    return exitCodeOf(error, call !== undefined);
  }
}

/** mount(8) uses 1 for wrong usage and missing permission only. A missing or bad image is a failed mount, 32. */
function exitCodeOf(error: unknown, wasUnderstood: boolean): number {
  const code = exitCodeOfError(error);
  if (code === EXIT.absent) return EXIT.mountFailed;
  const isDenied = hasCode(error, "ERR_PERMISSION");
  return code === EXIT.usage && wasUnderstood && !isDenied ? EXIT.mountFailed : code;
}

// The reader of stderr may have closed it: there is nowhere left to report to.
process.stderr.on("error", () => {});
process.on("uncaughtException", (error) => {
  process.stderr.write(formatError(error, true));
  process.exit(EXIT.bug);
});
void main(process.argv.slice(2)).then((code) => process.exit(code));
