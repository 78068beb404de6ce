#!/usr/bin/env node
/**
 * Entry of `mount.erofs.nbd`, which mount(8) runs for «mount -t erofs.nbd» and for fstab lines of that type.
 *
 * Reads what mount(8) hands over, lets mountImage() do the rest, and ends with an exit code of mount(8)'s. Nothing
 * imports it. The command line's library is not loaded: at boot there may be many of these.
 */
import { EXIT } from "../errors.ts";
import { VERSION } from "../version.ts";
import { CliContext } from "./context.ts";
import { type HelperCall, readHelperCall, USAGE } from "./mount/mount-call.ts";
import { mountImage } from "./mount/mount-image.ts";
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
    if (ignored.length > 0) context.detail(`options that nobody knows are left out: ${ignored.join(", ")}`);
    await mountImage(context, call.request);
    return EXIT.done;
  } catch (error) {
    process.stderr.write(formatError(error, context.isVerbose));
    return exitCodeOf(error, call !== undefined);
  }
}

/** mount(8) says 1 for a wrong call and a missing right alone; what is not there or no image is a failed mount, 32. */
function exitCodeOf(error: unknown, wasUnderstood: boolean): number {
  const code = exitCodeOfError(error);
  if (code === EXIT.absent) return EXIT.mountFailed;
  const isDenied = (error as { code?: unknown }).code === "ERR_PERMISSION";
  return code === EXIT.usage && wasUnderstood && !isDenied ? EXIT.mountFailed : code;
}

// Whoever read our stderr may be gone; there is nobody left to tell.
process.stderr.on("error", () => {});
process.on("uncaughtException", (error) => {
  process.stderr.write(formatError(error, true));
  process.exit(EXIT.bug);
});
void main(process.argv.slice(2)).then((code) => process.exit(code));
