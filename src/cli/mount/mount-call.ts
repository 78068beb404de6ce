/**
 * Parses the arguments that mount(8) passes to a helper: `IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
 *
 * Pure. Used by mount-helper.ts. The order is free, flags may be joined (-sv, -oro), and -o may be repeated.
 */
import { parseArgs } from "node:util";
import { ErofsNbdError, invalidValue } from "../../errors.ts";
import { readMountOptions } from "./mount-options.ts";
import type { MountRequest } from "./mount-request.ts";

/** The output of `--help`. */
export const USAGE = `Usage: mount.erofs.nbd IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

Called by mount(8) for mount -t erofs.nbd IMAGE DIR and for fstab lines of that type.

  -f              check everything, but do not mount
  -n              accepted, no effect: mount(8) itself keeps the table in /run/mount
  -N NAMESPACE    mount in that mount namespace: a process id, or a path
  -o OPTIONS      nbd.NAME=VALUE for attach, all others for mount(8) and the kernel
  -s              ignore unknown options
  -t TYPE         erofs.nbd or erofs
  -v              print what is done
  -h, --help      print this help
  -V, --version   print the version

More: man mount.erofs.nbd`;

const HELP_HINT = "see mount.erofs.nbd --help";
const TYPES = ["erofs.nbd", "erofs"];

/** Parsed arguments. */
export type HelperCall =
  | { readonly wants: "help" | "version" }
  | { readonly wants: "mount"; readonly isVerbose: boolean; readonly request: MountRequest };

/** @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readHelperCall(argv: readonly string[]): HelperCall {
  const { values, positionals } = parse(argv);
  if (values.help || values.version) return { wants: values.help ? "help" : "version" };
  const [image, directory, ...more] = positionals;
  if (image === undefined || directory === undefined || more.length > 0) {
    throw badCall(`expected IMAGE and DIR, got ${positionals.length} operands`);
  }
  if (image === "" || directory === "") throw badCall(`empty ${image === "" ? "IMAGE" : "DIR"}`);
  if (values.type !== undefined && !TYPES.includes(values.type)) {
    throw invalidValue("-t", values.type, TYPES.join(" or "), HELP_HINT);
  }
  if (values.namespace === "") throw invalidValue("-N", "", "a process id or a path", HELP_HINT);
  const request: MountRequest = {
    image,
    directory,
    options: readMountOptions((values.options ?? []).join(","), values.sloppy === true),
    isFake: values.fake === true,
    // The calling mount(8) keeps the table itself. A second entry would remain when umount(8) removes the first.
    withoutTable: true,
    namespace: values.namespace,
    keepMounted: true,
  };
  return { wants: "mount", isVerbose: values.verbose === true, request };
}

interface Words {
  readonly values: {
    readonly sloppy?: boolean | undefined;
    readonly fake?: boolean | undefined;
    readonly "no-mtab"?: boolean | undefined;
    readonly verbose?: boolean | undefined;
    readonly namespace?: string | undefined;
    readonly options?: string[] | undefined;
    readonly type?: string | undefined;
    readonly help?: boolean | undefined;
    readonly version?: boolean | undefined;
  };
  readonly positionals: readonly string[];
}

function parse(argv: readonly string[]): Words {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        sloppy: { type: "boolean", short: "s" },
        fake: { type: "boolean", short: "f" },
        "no-mtab": { type: "boolean", short: "n" },
        verbose: { type: "boolean", short: "v" },
        namespace: { type: "string", short: "N" },
        options: { type: "string", short: "o", multiple: true },
        type: { type: "string", short: "t" },
        help: { type: "boolean", short: "h" },
        version: { type: "boolean", short: "V" },
      },
    });
  } catch (error) {
    // The first sentence of Node's message names the option; the rest is advice for programmers.
    const [first = ""] = (error as Error).message.split(/[.\n]/, 1);
    throw badCall(first.charAt(0).toLowerCase() + first.slice(1), error);
  }
}

function badCall(why: string, cause?: unknown): ErofsNbdError {
  return new ErofsNbdError("ERR_BAD_ARGUMENT", why, { hint: HELP_HINT, cause });
}
