/** A prefix of its own for each test of install-units, and what would be installed below it. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "vitest";
import {
  type Installation,
  type SystemFile,
  serviceFiles,
} from "../../../../src/cli/install/service-files.ts";

export const INSTALLATION: Installation = {
  nodePath: "/opt/node 20/bin/node",
  programDirectory: "/usr/lib/node_modules/erofs-nbd/dist/src/cli",
  systemdVersion: 252,
  version: "1.2.3",
};
export const FILES: readonly SystemFile[] = serviceFiles(INSTALLATION);
export const UNIT = "/usr/local/lib/systemd/system/erofs-nbd.service";
export const FORMER_UNIT = "/etc/systemd/system/erofs-nbd.service";
export const PROGRAM: string = join(import.meta.dirname, "../../../../dist/src/cli/main.cjs");

/** Of the current test. */
export let prefix = "";

/** Gives each test of a file an empty prefix. */
export function usePrefix(): void {
  beforeEach(() => {
    prefix = mkdtempSync(join(tmpdir(), "install-units-"));
  });
  afterEach(() => rmSync(prefix, { recursive: true, force: true }));
}

export const at = (path: string): string => join(prefix, path);

/** All below the prefix that are not directories, as absolute paths of an installed system. */
export const filesBelow = (): string[] =>
  readdirSync(prefix, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(prefix.length))
    .sort();
