/**
 * fsopen(2) and fsconfig(2): asks the kernel whether a file system takes a mount option, without a device or a mount.
 *
 * mount(8) before 2.39 cannot pass on what the kernel says of an option, and reports a wrong file system type.
 */
import { addressOf, result, systemCall } from "./bind.ts";
import { close, read } from "./files.ts";

/** include/uapi/asm-generic/unistd.h; the same on every architecture. */
const SYS_FSOPEN = 430;
const SYS_FSCONFIG = 431;
const FSOPEN_CLOEXEC = 1;
const FSCONFIG_SET_STRING = 1;

const MESSAGE_BYTES = 256;

/**
 * What the kernel says against an option, such as "Unknown parameter 'fsoffset'". Undefined where it takes the option,
 * or cannot be asked: no privilege, a kernel before 5.2, no such file system.
 */
export function refusalOf(fileSystem: string, option: string, value: string): string | undefined {
  const [type, key, text] = [fileSystem, option, value].map((word) => Buffer.from(`${word}\0`));
  if (type === undefined || key === undefined || text === undefined) return undefined;
  const fd = result(systemCall(SYS_FSOPEN, addressOf(type), FSOPEN_CLOEXEC));
  if (fd < 0) return undefined;
  try {
    const done = result(
      systemCall(SYS_FSCONFIG, fd, FSCONFIG_SET_STRING, addressOf(key), addressOf(text), 0),
    );
    return done < 0 ? lastMessage(fd, fileSystem) : undefined;
  } finally {
    close(fd);
  }
}

/** Messages are read one at a time, each with its level ("e ", "w ", "i ") and mostly the name before it. */
function lastMessage(fd: number, fileSystem: string): string {
  const bytes = new Uint8Array(MESSAGE_BYTES);
  let last = "the kernel gave no reason";
  for (let got = read(fd, bytes, bytes.length); got > 0; got = read(fd, bytes, bytes.length)) {
    const text = Buffer.from(bytes.subarray(0, got))
      .toString()
      .trim()
      .replace(/^[ewi] /, "");
    last = text.startsWith(`${fileSystem}: `) ? text.slice(fileSystem.length + 2) : text;
  }
  return last;
}
