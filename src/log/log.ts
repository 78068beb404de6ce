/**
 * The manager's log on stderr: JSON lines, lines with priorities for journald, or plain text for a terminal.
 *
 * Lines are written synchronously, because the last line before a crash is the most important one. rate-limit.ts limits
 * similar lines, log-file.ts limits the size of a log file.
 */
import { writeSync } from "node:fs";
import { isatty } from "node:tty";
import { pino } from "pino";
import { isJournal, PRIORITY } from "./journald.ts";
import { LogFile } from "./log-file.ts";
import { LineLimiter } from "./rate-limit.ts";

export interface Log {
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
  /** Written only at level "debug". */
  debug?(message: string, fields?: Record<string, unknown>): void;
}

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogOptions {
  /** The least level that is written. Default: EROFS_NBD_LOG, or "info". */
  readonly level?: LogLevel | undefined;
  /** If stderr is this file, its size is limited. */
  readonly file?: { readonly logFile: string; readonly oldLogFile: string };
}

type Format = "json" | "journal" | "terminal";

const STDERR = 2;

export function createLog(options: LogOptions = {}): Log {
  const fromEnvironment = process.env["EROFS_NBD_LOG"];
  const level = options.level ?? LOG_LEVELS.find((one) => one === fromEnvironment) ?? "info";
  const write = writerTo(STDERR, chooseFormat(), options.file);
  const logger = pino(
    {
      level,
      base: { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    { write },
  );
  const limiter = new LineLimiter<LogLevel>();
  const summarise = (nowMs: number): void => {
    for (const { level: of, message, count } of limiter.ended(nowMs))
      logger[of]({ suppressed: count }, `${count} more like this: ${message}`);
  };
  let isDue = false;
  /** Sets a timer for the end of the window in which lines were suppressed. */
  const remind = (): void => {
    const dueAtMs = isDue ? undefined : limiter.dueAtMs;
    if (dueAtMs === undefined) return;
    isDue = true;
    setTimeout(
      () => {
        isDue = false;
        summarise(performance.now());
        remind();
      },
      Math.max(0, dueAtMs - performance.now()),
    ).unref();
  };
  process.once("exit", () => summarise(Number.POSITIVE_INFINITY));
  const say = (of: LogLevel, message: string, fields: Record<string, unknown> = {}): void => {
    if (!logger.isLevelEnabled(of)) return;
    summarise(performance.now());
    if (limiter.admit(of, message)) return logger[of](apart(fields), message);
    remind();
  };
  const log: Log = {
    debug: (message, fields) => say("debug", message, fields),
    info: (message, fields) => say("info", message, fields),
    warn: (message, fields) => say("warn", message, fields),
    error: (message, fields) => say("error", message, fields),
  };
  if (
    fromEnvironment !== undefined &&
    fromEnvironment !== "" &&
    !LOG_LEVELS.some((one) => one === fromEnvironment)
  )
    log.warn(`EROFS_NBD_LOG is none of ${LOG_LEVELS.join(", ")}`, { value: fromEnvironment });
  return log;
}

/** Writes Node's warnings as log lines; Node writes them without a level, in several lines. */
export function logWarnings(log: Log): void {
  process.removeAllListeners("warning");
  process.on("warning", ({ name, message, stack }) => log.warn(`${name}: ${message}`, { stack }));
}

/** Keys of pino's own fields, which a field of the same name would overwrite. */
const OWN_KEYS = ["level", "time", "msg"];

function apart(fields: Record<string, unknown>): Record<string, unknown> {
  const renamed = ([key, value]: [string, unknown]): [string, unknown] => [
    OWN_KEYS.includes(key) ? `${key}_` : key,
    value,
  ];
  return Object.fromEntries(Object.entries(fields).map(renamed));
}

function chooseFormat(): Format {
  if (isJournal(STDERR)) return "journal";
  return isatty(STDERR) ? "terminal" : "json";
}

/** Writes pino's lines. A line that cannot be written is dropped: a full disk must not affect devices. */
function writerTo(fd: number, format: Format, file: LogOptions["file"]): (line: string) => void {
  const isFile = file !== undefined && LogFile.isAt(fd, file.logFile);
  const rotating = isFile ? new LogFile(fd, file.logFile, file.oldLogFile) : undefined;
  return (line) => {
    const text = format === "json" ? line : toText(line, format);
    rotating?.willWrite(text.length);
    try {
      writeSync(fd, text);
    } catch {
      // ENOSPC, EPIPE, EAGAIN.
    }
  };
}

interface PinoLine {
  readonly level: number;
  readonly time: string;
  readonly pid: number;
  readonly msg?: string;
}

/** Makes text of pino's JSON line. Time and pid are left out for journald, which adds them itself. */
function toText(line: string, format: "journal" | "terminal"): string {
  const { level, time, pid: _, msg = "", ...fields } = JSON.parse(line) as PinoLine;
  const name = LOG_LEVELS.find((one) => pino.levels.values[one] === level) ?? "error";
  const rest = Object.keys(fields).length === 0 ? "" : `  ${JSON.stringify(fields)}`;
  // A line break would start a line without a priority.
  const text = `${msg}${rest}`.replace(/\p{Cc}/gu, " ");
  if (format === "journal") return `<${PRIORITY[name]}>${text}\n`;
  return `${time.slice(11, 23)}  ${name.padEnd(5)}  ${text}\n`;
}
