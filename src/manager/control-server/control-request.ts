/**
 * Turns a line that a peer has sent into a request that fits its schema, or into an error answer. Pure.
 */
import * as z from "zod";
import { faultOf } from "../../control/fault.ts";
import type { ControlFault, Method } from "../../control/protocol.ts";
import { ErofsNbdError } from "../../errors.ts";
import { PARAMS } from "./params.ts";

/** A request with a known method; its parameters are not checked yet. */
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

/** A request, or the error answer to a line that is none. */
export function readRequest(
  line: string,
): ControlRequest | { readonly id: number; readonly error: ControlFault } {
  let id = 0;
  try {
    const value = parseJson(line);
    id = idOf(value);
    return parse(requestSchema, value, "control request");
  } catch (error) {
    return { id, error: faultOf(error) };
  }
}

/** @throws ErofsNbdError ERR_BAD_ARGUMENT */
export function readParams(method: Method, params: unknown): unknown {
  return parse<unknown>(PARAMS[method] as z.ZodType, params, `${method} request`);
}

/** The id for the answer, even if the rest is not a request; 0 where there is none. */
function idOf(value: unknown): number {
  const parsed = z.object({ id: idSchema }).safeParse(value);
  return parsed.success ? parsed.data.id : 0;
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new ErofsNbdError("ERR_BAD_ARGUMENT", "invalid control request: not JSON");
  }
}

/** @throws ErofsNbdError ERR_BAD_ARGUMENT: one line about the first part that does not fit the schema */
function parse<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue === undefined || issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
  throw new ErofsNbdError("ERR_BAD_ARGUMENT", `invalid ${what}: ${where}${issue?.message}`);
}
