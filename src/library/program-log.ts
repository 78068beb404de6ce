/**
 * A program's own logger as the log of a manager.
 *
 * Loggers differ in the order of their arguments: console and winston take the message first, pino and bunyan the
 * fields. Either can be given.
 */
import type { Log } from "../log/log.ts";

type Write = (first: unknown, second?: unknown) => void;
type FieldsFirst = Readonly<Record<"info" | "warn" | "error", Write>> & { readonly debug?: Write };

/** `bindings` is pino's, `addStream` is bunyan's. */
function takesFieldsFirst(logger: object): boolean {
  const has = (name: string): boolean => typeof (logger as Record<string, unknown>)[name] === "function";
  return has("child") && (has("bindings") || has("addStream"));
}

/** The logger itself, or a Log in front of one that takes the fields first. */
export function asLog(logger: Log): Log {
  if (!takesFieldsFirst(logger)) return logger;
  const own = logger as unknown as FieldsFirst;
  return {
    debug: (message, fields = {}) => own.debug?.(fields, message),
    info: (message, fields = {}) => own.info(fields, message),
    warn: (message, fields = {}) => own.warn(fields, message),
    error: (message, fields = {}) => own.error(fields, message),
  };
}
