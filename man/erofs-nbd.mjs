// @ts-check
/**
 * erofs-nbd(8), made of the command line's own definitions; only what they do not say is written here.
 */
import { bold, entry, italic, page, prose, roff, section } from "./roff.mjs";

/** @typedef {import("../src/cli/command-shapes.ts").ProgramShape} ProgramShape */
/** @typedef {import("../src/cli/command-shapes.ts").CommandShape} CommandShape */
/** @typedef {import("../src/cli/command-shapes.ts").OptionShape} OptionShape */
/** @typedef {import("../src/cli/command-shapes.ts").OperandShape} OperandShape */

const DESCRIPTION = `
erofs-nbd attaches EROFS images, and any other block image, to /dev/nbdN through the kernel's netlink interface, and keeps them
readable whatever dies. The process that serves the reads may be killed, hang or be upgraded: another one goes on with the same
socket. The socket itself may be lost: the kernel gets a fresh one. Reads wait meanwhile. All devices are read-only.

The first attach starts a manager, which ends with its last device. A killed manager's devices are served on, and the next
command starts a manager that takes them over.
`;

const FILES = [
  ["/run/erofs-nbd", "the manager's control socket, and a record of each device; mode 0700"],
  [
    "/run/erofs-nbd/manager.log",
    "the log of a manager that a command started, and what its workers have to say",
  ],
  ["/run/erofs-nbd/manager.log.1", "what was in it before it came to 1 MiB"],
  ["/run/erofs-nbd/metrics.sock", "where metrics are offered over HTTP, for Prometheus"],
  ["/sbin/mount.erofs.nbd", "where mount(8) looks for the helper: see mount.erofs.nbd(8)"],
];

const ENVIRONMENT = [
  ["EROFS_NBD_RUN_DIR", "the run directory, where --run-dir does not name one"],
  ["RUNTIME_DIRECTORY", "the same, set by systemd for a manager's own unit, where neither names one"],
  [
    "EROFS_NBD_LOG",
    "what a manager logs, where --log-level does not say it: debug, info (the default), warn or error",
  ],
  [
    "EROFS_NBD_METRICS_LISTEN",
    "HOST:PORT, a loopback address where a manager offers metrics as well, where --metrics-listen names none",
  ],
  ["NO_COLOR", "not empty: the live table has no colours"],
];

const EXIT_STATUS = [
  ["0", "done"],
  ["1", "wrong usage, bad input or missing permission"],
  ["2", "the system or the kernel refused"],
  ["3", "not attached, nothing there"],
  ["4", "internal error (a bug in erofs-nbd)"],
  ["8", "interrupted"],
  ["32", "mount failed"],
  ["64", "some of several done"],
];

/** @param {ProgramShape} program */
export function erofsNbdPage(program) {
  return page({
    name: program.name,
    summary: "attach EROFS images to /dev/nbdN and keep them readable whatever dies",
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
