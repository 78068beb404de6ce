// @ts-check
/** Counts what needs nbd, root, and limits that are the same everywhere; sections.mjs runs it in a guest. */
import { mkdtempSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { countReads } from "./reads.mjs";
import { countStarts } from "./starts.mjs";

/** What statfs(2) says of a tmpfs, as /tmp of a guest is, and of an overlay, as its root is. */
const TMPFS = 0x01021994;
const OVERLAYFS = 0x794c7630;

/** @param {string} parent @param {number} type */
function directoryOn(parent, type) {
  if (statfsSync(parent).type !== type) throw new Error(`${parent} is not on the expected file system`);
  return mkdtempSync(join(parent, "erofs-nbd-count-"));
}

const directory = directoryOn(tmpdir(), TMPFS);
const counts = {
  reads: [...(await countReads(directory, directoryOn("/var/lib", OVERLAYFS)))],
  starts: [...(await countStarts(directory))],
};
writeFileSync(join(process.env["EROFS_NBD_LAB_SHARE"] ?? "", "counts.json"), JSON.stringify(counts));
