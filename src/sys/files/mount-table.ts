/**
 * The mounts of this process's mount namespace, read once from mountinfo (proc(5)).
 *
 * Answers where a path leads without following it: a walk along a path asks every file system on the way, and waits for
 * one that does not answer. Only text is compared, so paths must be absolute and free of symbolic links.
 */
import { readFileSync } from "node:fs";

export interface Mount {
  readonly id: number;
  readonly parent: number;
  /** "major:minor" of the file system. That of its files may differ (btrfs, overlayfs). */
  readonly device: string;
  /** Where it is mounted. */
  readonly path: string;
  /** The file system's type, such as "ext4". */
  readonly type: string;
}

export class MountTable {
  readonly #mounts = new Map<number, Mount>();
  /** By the id of the mount below; mounts whose parent is outside of this root directory are below `undefined`. */
  readonly #above = new Map<number | undefined, Mount[]>();

  /** `text` is for tests. */
  constructor(text: string = readFileSync("/proc/self/mountinfo", "utf8")) {
    for (const line of text.split("\n")) {
      const mount = parseLine(line);
      if (mount !== undefined) this.#mounts.set(mount.id, mount);
    }
    for (const mount of this.#mounts.values()) {
      const hasParent = this.#mounts.has(mount.parent) && mount.parent !== mount.id;
      const parent = hasParent ? mount.parent : undefined;
      const siblings = this.#above.get(parent);
      if (siblings === undefined) this.#above.set(parent, [mount]);
      else siblings.push(mount);
    }
  }

  /** The mount that a path leads to. */
  at(path: string): Mount | undefined {
    let found: Mount | undefined;
    for (;;) {
      // The first mount point on the way is entered. What is mounted further down on the same mount is covered by it.
      const next = (this.#above.get(found?.id) ?? [])
        .filter((mount) => isOnTheWay(mount.path, path))
        .reduce<Mount | undefined>((first, one) => (isShorter(one, first) ? one : first), undefined);
      if (next === undefined) return found;
      found = next;
    }
  }

  /** The mount of an open file; undefined if it is one of another namespace, or there is no /proc. */
  ofFile(fd: number): Mount | undefined {
    try {
      const id = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1];
      return this.#mounts.get(Number(id));
    } catch {
      return undefined;
    }
  }

  /** The mounts of a file system whose mount points no other mount covers; those with the shortest paths first. */
  uncovered(device: string): Mount[] {
    return [...this.#mounts.values()]
      .filter((mount) => mount.device === device && this.at(mount.path) === mount)
      .sort((one, other) => one.path.length - other.path.length);
  }
}

const isOnTheWay = (mountPoint: string, path: string): boolean =>
  mountPoint === "/" || path === mountPoint || path.startsWith(`${mountPoint}/`);

const isShorter = (one: Mount, other: Mount | undefined): boolean =>
  other === undefined || one.path.length < other.path.length;

/** `ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAGS…] - TYPE SOURCE OPTIONS` */
function parseLine(line: string): Mount | undefined {
  const [id, parent, device, , path] = line.split(" ", 5);
  const type = line.split(" - ")[1]?.split(" ")[0];
  if (device === undefined || path === undefined || type === undefined) return undefined;
  return { id: Number(id), parent: Number(parent), device, path: decodePath(path), type };
}

/** Space, tab, newline and backslash are written as three octal digits. */
function decodePath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
