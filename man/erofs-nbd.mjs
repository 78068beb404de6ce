// @ts-check
/**
 * Generates erofs-nbd(8) from the definitions of the command line. Only what these do not contain is written here.
 */
import { bold, entry, italic, page, prose, roff, section } from "./roff.mjs";

/** @typedef {import("../src/cli/command-shapes.ts").ProgramShape} ProgramShape */
/** @typedef {import("../src/cli/command-shapes.ts").CommandShape} CommandShape */
/** @typedef {import("../src/cli/command-shapes.ts").OptionShape} OptionShape */
/** @typedef {import("../src/cli/command-shapes.ts").OperandShape} OperandShape */

const DESCRIPTION = `
erofs-nbd attaches EROFS images, and any other block image, to /dev/nbdN through the kernel's netlink interface, and
keeps them readable, no matter which process dies. If the process that serves the reads is killed, hangs or is upgraded,
another one goes on with the same socket. If the socket is lost, the kernel gets a new one. Reads wait meanwhile. All
devices are read-only.

The first attach starts a manager, which ends with its last device. When a manager is killed, its devices are still
served, and another manager adopts them.
`;

const FILES = [
  ["/run/erofs-nbd", "the manager's control socket, and a record of each device; mode 0700"],
  ["/run/erofs-nbd/manager.log", "the log of a manager started by a command, and of its workers"],
  ["/run/erofs-nbd/manager.log.1", "the log before it reached 1 MiB"],
  ["/run/erofs-nbd/metrics.sock", "metrics for Prometheus over HTTP"],
  ["/sbin/mount.erofs.nbd", "the mount helper: see mount.erofs.nbd(8)"],
];

const ENVIRONMENT = [
  ["EROFS_NBD_RUN_DIR", "the run directory, if --run-dir is not given"],
  ["RUNTIME_DIRECTORY", "the same, set by systemd for the manager's unit, if neither is given"],
  [
    "EROFS_NBD_LOG",
    "the log level of a manager without --log-level: debug, info (the default), warn or error",
  ],
  ["EROFS_NBD_METRICS_LISTEN", "HOST:PORT, a loopback address for metrics, if --metrics-listen is not given"],
  ["NO_COLOR", "if not empty, the live table has no colours"],
];

const EXIT_STATUS = [
  ["0", "done"],
  ["1", "wrong usage, bad input or missing permission"],
  ["2", "the system or the kernel refused"],
  ["3", "not attached, nothing there"],
  ["4", "internal error (a bug in erofs-nbd)"],
  ["5", "chaos found a fault"],
  ["8", "interrupted"],
  ["32", "mount failed"],
  ["64", "some of several done"],
];

/** @param {ProgramShape} program */
export function erofsNbdPage(program) {
  return page({
    name: program.name,
    summary: "attach EROFS images to /dev/nbdN and keep them readable, no matter which process dies",
    version: program.version,
    body: [
      section("Synopsis"),
      ...program.commands.flatMap((command) => [synopsis(program, command), ".br"]).slice(0, -1),
      section("Description"),
      prose(DESCRIPTION),
      section("Options of all commands"),
      ...program.options.map(option),
      section("Commands"),
      ...program.commands.flatMap((command) => describe(program, command)),
      section("Files"),
      ...FILES.map(([name = "", text = ""]) => entry(italic(name), text)),
      section("Environment"),
      ...ENVIRONMENT.map(([name = "", text = ""]) => entry(bold(name), text)),
      section("Exit status"),
      ...EXIT_STATUS.map(([name = "", text = ""]) => entry(bold(name), text)),
      ".PP",
      roff(
        "An error is one line on stderr, such as `erofs-nbd: cannot attach image.erofs: it is empty`. A second line,",
      ),
      roff("`hint: WHAT TO DO`, follows where there is a remedy."),
      section("See also"),
      ["mount.erofs.nbd(8)", "mount(8)", "umount(8)", "findmnt(8)", "mkfs.erofs(1)", "modprobe(8)"]
        .map(bold)
        .join(",\n"),
    ],
  });
}

/**
 * @param {ProgramShape} program
 * @param {CommandShape} command
 */
function synopsis(program, command) {
  const words = [
    bold(program.name),
    bold(command.name),
    `[${italic("OPTIONS")}]`,
    ...command.operands.map(operand),
  ];
  return words.join(" ");
}

/** @param {OperandShape} place */
function operand({ name, isOptional, isRepeated }) {
  const shown = `${italic(name)}${isRepeated ? " ..." : ""}`;
  return isOptional ? `[${shown}]` : shown;
}

/** @param {OptionShape} shape */
function option({ names, value, summary, defaultText }) {
  const spellings = names.map(bold).join(", ");
  const text = defaultText === undefined ? summary : `${summary} (default: ${defaultText})`;
  return entry(value === undefined ? spellings : `${spellings} ${italic(value)}`, text);
}

/**
 * @param {ProgramShape} program
 * @param {CommandShape} command
 */
function describe(program, command) {
  const own = command.options.filter(({ names }) => !names.includes("--help"));
  return [
    `.SS ${roff(command.name)}`,
    synopsis(program, command),
    ".PP",
    roff(`${command.summary[0]?.toUpperCase()}${command.summary.slice(1)}.`),
    ...command.operands.map((place) => entry(operand(place), place.summary)),
    ...own.map(option),
    ...(command.notes === "" ? [] : [prose(command.notes)]),
  ];
}
