/**
 * Random names from the kernel: identifiers of devices, names of sockets. node:crypto would be 15 more modules to load
 * for each manager.
 */
import { readFileSync } from "node:fs";

/** A version 4 UUID (random(4)). */
export function randomUuid(): string {
  return readFileSync("/proc/sys/kernel/random/uuid", "latin1").trim();
}
