/**
 * From a line that a peer has sent to a request that fits its schema, or to the answer that says why it is none.
 * Does no I/O.
 */
import * as z from "zod";
import { faultOf } from "../../control/fault.ts";
import type { ControlFault, Method } from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import { PARAMS } from "./params.ts";

/** One whose method is known, and its parameters as they came. */
export interface ControlRequest {
  readonly id: number;
  readonly method: Method;
  readonly params: unknown;
}

const idSchema = z.number().int().nonnegative();
const requestSchema: z.ZodType<ControlRequest> = z.strictObject({
  id: idSchema,
  method: z.enum(Object.keys(PARAMS) as [Method, ...Method[]]),
  params: z.unknown(),
});

/** A request, or what to say to a peer that sends something else. */
export function readRequest(
  line: string,
): ControlRequest | { readonly id: number; readonly error: ControlFault } {
  let id = 0;
  try {
    const value = parseJson(line);
    id = idOf(value);
    return parse(requestSchema, value, "request");
  } catch (error) {
    return { id, error: faultOf(error) };
  }
}

/** @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readParams(method: Method, params: unknown): unknown {
  return parse<unknown>(PARAMS[method] as z.ZodType, params, method);
}

/** The id of what may not be a request, for the answer; 0 where there is none. */
function idOf(value: unknown): number {
  const parsed = z.object({ id: idSchema }).safeParse(value);
  return parsed.success ? parsed.data.id : 0;
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", "cannot understand a control request: it is not JSON");
  }
}

/** A value that fits its schema, or one line about the first thing that does not. */
function parse<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue === undefined || issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
  throw new ErofsNbdError(
    "ERR_BAD_ARGUMENT",
    `cannot ${what === "request" ? "understand a control request" : what}: ${where}${issue?.message}`,
  );
}
