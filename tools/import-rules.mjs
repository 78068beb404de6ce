// @ts-check
/**
 * Which folder of src/ and netlink/ may import from which: the tables, and the rules of biome.json made from them.
 *
 * `node tools/import-rules.mjs --write` writes biome.json anew; `npm test` fails where the two differ. A folder that
 * the tables do not name cannot be imported.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const BIOME = fileURLToPath(new URL("../biome.json", import.meta.url));

/** Files at the root of src/ that a room without them lives without, because it is used alone or loaded everywhere. */
const LEAVES = ["errors", "limits", "version", "program-files"];

/**
 * A room below src/, what it may import of the others (a room, or a file of it), and of the leaves. Downward only.
 * @type {readonly { room: string, rooms: readonly string[], leaves?: readonly string[], koffi?: true }[]}
 */
export const ROOMS = [
  { room: "text", rooms: [], leaves: [] },
  { room: "log", rooms: ["text", "sys"], leaves: ["version"] },
  { room: "sys", rooms: [], leaves: [], koffi: true },
  { room: "kernel", rooms: ["log", "sys", "netlink/index.ts"] },
  { room: "nbd", rooms: [], leaves: [] },
  { room: "journal", rooms: ["nbd", "sys"], leaves: [] },
  { room: "source", rooms: ["sys"] },
  { room: "erofs", rooms: ["sys", "text"] },
  { room: "worker-protocol", rooms: ["source"] },
  { room: "serving", rooms: ["worker-protocol", "journal", "nbd", "source", "sys"] },
  { room: "worker", rooms: ["serving", "worker-protocol", "journal", "nbd", "source", "sys"] },
  { room: "supervisor", rooms: ["worker-protocol", "kernel", "nbd", "source", "sys", "netlink/index.ts"] },
  { room: "pool", rooms: ["supervisor", "worker-protocol", "journal", "source", "sys", "text"] },
  { room: "opener", rooms: ["source", "sys"], leaves: [] },
  { room: "control", rooms: ["supervisor", "source", "sys"] },
  {
    room: "manager",
    rooms: [
      ...["control", "opener", "pool", "supervisor", "worker-protocol", "kernel", "journal", "erofs"],
      ...["source", "sys", "log", "text", "netlink/index.ts"],
    ],
  },
  { room: "library", rooms: ["manager", "control", "supervisor", "source", "log"] },
  { room: "chaos", rooms: ["control", "kernel/sysfs.ts", "source", "sys", "text"] },
  {
    room: "cli",
    rooms: [
      ...["chaos", "manager", "control", "serving", "supervisor", "worker-protocol", "kernel", "erofs"],
      ...["source", "sys", "log", "text", "netlink/index.ts"],
    ],
  },
];

/**
 * A room below netlink/, what it may import of the others, and its files that use koffi. All may import the errors and
 * constants at the root, and nothing of src/.
 * @type {readonly { room: string, rooms: readonly string[], koffi?: readonly string[] }[]}
 */
export const NETLINK_ROOMS = [
  { room: "wire", rooms: [] },
  { room: "transport", rooms: ["wire"], koffi: ["libc.ts", "kernel-transport.ts"] },
  { room: "client", rooms: ["wire", "transport"] },
];

const NAMES = [...ROOMS.map(({ room }) => room), "netlink"];

/** Why a room may not import what it tried to. @param {(typeof ROOMS)[number]} rule */
const messageOf = ({ room, rooms }) =>
  `src/${room} may import: ${rooms.length === 0 ? "nothing" : rooms.join(", ")} (see tools/import-rules.mjs)`;

/** @param {(typeof ROOMS)[number]} rule */
function overrideOf(rule) {
  const { room, rooms, leaves = LEAVES, koffi } = rule;
  const files = rooms.filter((name) => name.endsWith(".ts"));
  const group = [
    ...(koffi === true ? [] : ["koffi"]),
    ...NAMES.filter((name) => name !== room && !rooms.includes(name)).map((name) => `**/${name}/**`),
    ...LEAVES.filter((name) => !leaves.includes(name)).map((name) => `**/../${name}.ts`),
    "**/../index.ts",
    ...files.map((name) => `!**/${name}`),
  ];
  return restriction([`src/${room}/**`], group, messageOf(rule));
}

/** @param {readonly string[]} includes @param {readonly string[]} group @param {string} message */
function restriction(includes, group, message) {
  const noRestrictedImports = { level: "error", options: { patterns: [{ group, message }] } };
  return { includes, linter: { rules: { style: { noRestrictedImports } } } };
}

/**
 * The rule of a room below netlink/, and that of its files that use koffi.
 * @param {(typeof NETLINK_ROOMS)[number]} rule
 */
function netlinkOverridesOf({ room, rooms, koffi = [] }) {
  const allowed = ["errors.ts", "constants.ts", ...rooms].join(", ");
  const message = `netlink/${room} may import: ${allowed} (see tools/import-rules.mjs)`;
  const forbidden = NETLINK_ROOMS.filter(({ room: name }) => name !== room && !rooms.includes(name));
  const group = [...forbidden.map(({ room: name }) => `**/${name}/**`), "**/../index.ts", "**/../../**"];
  const all = restriction([`netlink/${room}/**`], ["koffi", ...group], message);
  if (koffi.length === 0) return [all];
  return [
    all,
    restriction(
      koffi.map((file) => `netlink/${room}/${file}`),
      group,
      message,
    ),
  ];
}

/** Of the files at the root, only index.ts imports from the rooms. */
const NETLINK_ROOT = [
  restriction(
    ["netlink/*.ts"],
    ["koffi", "**/../**"],
    "netlink/ is usable alone: it imports koffi and node: only",
  ),
  restriction(
    ["netlink/*.ts", "!netlink/index.ts"],
    ["koffi", "**/../**", ...NETLINK_ROOMS.map(({ room }) => `**/${room}/**`)],
    "errors.ts and constants.ts of netlink/ are leaves: the rooms import them (see tools/import-rules.mjs)",
  ),
];

/** biome.json with the rules of the table in the place of those that it has. @param {string} text */
export function withRules(text) {
  const rules = JSON.parse(text);
  const others = rules.overrides.filter(
    (/** @type {{ includes: string[] }} */ { includes }) =>
      !includes.some((one) => /^(src|netlink)\//.test(one)),
  );
  const netlink = [...NETLINK_ROOT, ...NETLINK_ROOMS.flatMap(netlinkOverridesOf)];
  return { ...rules, overrides: [...ROOMS.map(overrideOf), ...netlink, ...others] };
}

if (process.argv[2] === "--write") {
  writeFileSync(BIOME, `${JSON.stringify(withRules(readFileSync(BIOME, "utf8")), undefined, 2)}\n`);
}
