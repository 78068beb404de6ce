/**
 * Checks of the arguments of NbdNetlink, made before anything is sent. Pure; throws only TypeError and RangeError.
 *
 * Called by nbd.ts. The kernel's own rules that differ between versions (page size, highest index) are left to the
 * kernel.
 */
import type { NbdConnectOptions, NbdReconfigureOptions } from "./nbd.ts";

const U32_MAXIMUM = 0xffff_ffff;
/** nbd_genl_status and nbd_genl_connect read 0xffffffff as "any". */
const INDEX_MAXIMUM = U32_MAXIMUM - 1;
const FD_MAXIMUM = 0x7fff_ffff;
/** The driver keeps seconds × HZ in 32 bits (blk_queue_rq_timeout); HZ is 1000 at most. */
const TIMEOUT_MAXIMUM_SECONDS = 2_147_483;
const BLOCK_SIZE_MINIMUM_BYTES = 512;
const BLOCK_SIZE_MAXIMUM_BYTES = 65_536;
/** Twelve bytes each in an attribute of at most 65,531. */
const SOCKETS_MAXIMUM = 5460;
const IDENTIFIER_MAXIMUM_BYTES = 255;

function checkInteger(name: string, value: number, minimum: number, maximum: number): void {
  if (typeof value !== "number")
    throw new TypeError(`cannot use ${name}: expected a number, got ${typeof value}`);
  if (!Number.isInteger(value)) throw new RangeError(`cannot use ${name} ${value}: not a whole number`);
  if (value < minimum || value > maximum) {
    throw new RangeError(`cannot use ${name} ${value}: allowed are ${minimum} to ${maximum}`);
  }
}

function checkOptional(
  name: string,
  value: number | undefined,
  check: (name: string, value: number) => void,
): void {
  if (value !== undefined) check(name, value);
}

function checkSize(name: string, value: number): void {
  checkInteger(name, value, 0, Number.MAX_SAFE_INTEGER);
}

function checkBlockSize(name: string, value: number): void {
  checkInteger(name, value, BLOCK_SIZE_MINIMUM_BYTES, BLOCK_SIZE_MAXIMUM_BYTES);
  if ((value & (value - 1)) !== 0) throw new RangeError(`cannot use ${name} ${value}: not a power of two`);
}

function checkTimeout(name: string, value: number): void {
  checkInteger(name, value, 0, TIMEOUT_MAXIMUM_SECONDS);
}

function checkU32(name: string, value: number): void {
  checkInteger(name, value, 0, U32_MAXIMUM);
}

function checkSockets(sockets: readonly number[]): void {
  if (!Array.isArray(sockets)) throw new TypeError("cannot use sockets: expected an array of descriptors");
  if (sockets.length === 0) throw new RangeError("cannot use sockets: at least one is needed");
  if (sockets.length > SOCKETS_MAXIMUM) {
    throw new RangeError(
      `cannot use sockets: ${sockets.length} exceed the ${SOCKETS_MAXIMUM} of one message`,
    );
  }
  for (const [position, fd] of sockets.entries()) checkInteger(`sockets[${position}]`, fd, 0, FD_MAXIMUM);
}

function checkIdentifier(identifier: string): void {
  if (typeof identifier !== "string") {
    throw new TypeError(`cannot use backendIdentifier: expected a string, got ${typeof identifier}`);
  }
  const lengthBytes = new TextEncoder().encode(identifier).length;
  if (lengthBytes === 0) throw new RangeError("cannot use backendIdentifier: it is empty");
  if (lengthBytes > IDENTIFIER_MAXIMUM_BYTES) {
    throw new RangeError(
      `cannot use backendIdentifier: ${lengthBytes} bytes exceed ${IDENTIFIER_MAXIMUM_BYTES}`,
    );
  }
  // sysfs shows it as one line, by which devices are found again.
  if (/[\0\r\n]/.test(identifier))
    throw new RangeError("cannot use backendIdentifier: it contains a line end or NUL");
}

/** @throws TypeError, RangeError unless 0 to 2^32-2 */
export function checkIndex(index: number): void {
  checkInteger("index", index, 0, INDEX_MAXIMUM);
}

/** @throws TypeError, RangeError */
export function checkConnect(options: NbdConnectOptions): void {
  if (options.index !== undefined) checkIndex(options.index);
  checkSize("sizeBytes", options.sizeBytes);
  checkBlockSize("blockSizeBytes", options.blockSizeBytes);
  checkTimeout("timeoutSeconds", options.timeoutSeconds);
  checkU32("deadConnectionTimeoutSeconds", options.deadConnectionTimeoutSeconds);
  checkU32("serverFlags", options.serverFlags);
  checkU32("clientFlags", options.clientFlags);
  checkSockets(options.sockets);
  checkIdentifier(options.backendIdentifier);
}

/** @throws TypeError, RangeError */
export function checkReconfigure(options: NbdReconfigureOptions): void {
  checkIndex(options.index);
  checkIdentifier(options.backendIdentifier);
  checkOptional("sizeBytes", options.sizeBytes, checkSize);
  checkOptional("blockSizeBytes", options.blockSizeBytes, checkBlockSize);
  checkOptional("timeoutSeconds", options.timeoutSeconds, checkTimeout);
  checkOptional("deadConnectionTimeoutSeconds", options.deadConnectionTimeoutSeconds, checkU32);
  checkOptional("clientFlags", options.clientFlags, checkU32);
  if (options.sockets !== undefined) checkSockets(options.sockets);
}
