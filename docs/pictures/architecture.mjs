// @ts-check
/** The drawing at the top of the README: who talks to whom, and the way of a read. */
import { escapeText, svg } from "./theme.mjs";

const WIDTH = 940;
const HEIGHT = 610;

const STYLE = `
.h{font-size:15px;font-weight:600}.t{font-size:12.5px}.c{font-size:11.5px;fill:var(--soft)}.m{font-size:12px}
.k{font-size:11px;font-weight:600;letter-spacing:.08em;fill:var(--soft)}
path{fill:none;stroke-width:1.6}.dash{stroke-dasharray:5 4}rect{stroke-width:1.3}`;

/**
 * @param {number} x @param {number} y @param {number} width @param {number} height
 * @param {{ fill?: string, line?: string, dashed?: boolean }} [look]
 */
function box(x, y, width, height, { fill = "card", line = "line", dashed = false } = {}) {
  const look = `f-${fill} s-${line}${dashed ? " dash" : ""}`;
  return `<rect class="${look}" x="${x}" y="${y}" width="${width}" height="${height}" rx="8"/>`;
}

/**
 * @param {number} x @param {number} y @param {string} text
 * @param {string} [look] @param {"start" | "middle" | "end"} [anchor]
 */
function label(x, y, text, look = "t", anchor = "start") {
  return `<text class="${look}" x="${x}" y="${y}" text-anchor="${anchor}">${escapeText(text)}</text>`;
}

/** @param {string} path @param {string} [colour] @param {string} [more] */
function arrow(path, colour = "soft", more = "") {
  return `<path class="s-${colour} ${more}" d="${path}" marker-end="url(#to-${colour})"/>`;
}

/** @param {string} colour */
function head(colour) {
  const place = 'refX="8.5" refY="5" markerWidth="8" markerHeight="8" orient="auto-start-reverse"';
  const path = `<path d="M0 0L10 5L0 10z" class="f-${colour}" style="fill:var(--${colour});stroke:none"/>`;
  return `<marker id="to-${colour}" viewBox="0 0 10 10" ${place}>${path}</marker>`;
}

const parts = [
  `<defs>${["soft", "accent", "warn"].map(head).join("")}</defs>`,
  `<rect class="f-paper" x="0" y="0" width="${WIDTH}" height="${HEIGHT}" rx="10"/>`,
  label(30, 34, "CONTROL PATH", "k"),
  label(560, 34, "DATA PATH", "k"),

  // Control path
  box(30, 50, 270, 58),
  label(165, 75, "command line, library", "h", "middle"),
  label(165, 95, "attach, mount, status, upgrade, chaos", "c", "middle"),
  arrow("M165 108V158"),
  label(175, 138, "control socket", "c"),
  box(30, 162, 270, 236, { fill: "panel" }),
  label(165, 187, "manager", "h", "middle"),
  box(46, 202, 238, 52),
  label(165, 224, "supervisor, one per device", "t", "middle"),
  label(165, 242, "state table, failover", "c", "middle"),
  box(46, 264, 238, 68),
  label(165, 286, "worker pool", "t", "middle"),
  label(165, 304, "keeps a duplicate of every socket,", "c", "middle"),
  label(165, 320, "watches for deaths and hangs", "c", "middle"),
  box(46, 342, 238, 44),
  label(165, 369, "records, metrics, adoption", "t", "middle"),
  arrow("M165 452V402", "soft", "dash"),
  box(30, 456, 270, 58, { dashed: true }),
  label(165, 481, "guardian, or systemd", "h", "middle"),
  label(165, 500, "starts the next manager after a death", "c", "middle"),

  // Kernel
  box(540, 112, 370, 148, { fill: "accentSoft", line: "accent" }),
  label(556, 133, "KERNEL", "k"),
  box(560, 50, 330, 40),
  label(725, 75, "application", "h", "middle"),
  arrow("M725 90V138", "accent"),
  label(735, 108, "read", "c"),
  box(640, 142, 170, 36),
  label(725, 165, "EROFS, page cache", "t", "middle"),
  arrow("M725 178V204", "accent"),
  box(600, 208, 250, 40),
  label(725, 233, "/dev/nbd0, nbd driver", "t", "middle"),

  // Netlink
  arrow("M300 218H596", "soft"),
  label(420, 192, "netlink", "t", "middle"),
  label(420, 209, "CONNECT, RECONFIGURE, DISCONNECT", "c", "middle"),
  arrow("M600 238H304", "warn", "dash"),
  label(420, 256, "LINK_DEAD", "c", "middle"),

  // Link
  arrow("M725 248V278", "accent"),
  arrow("M637 372V404", "accent"),
  box(590, 282, 270, 90, { fill: "goodSoft", line: "good" }),
  label(725, 304, "link: one socket", "h", "middle"),
  label(725, 324, "journal: requests not answered yet", "t", "middle"),
  label(725, 342, "pipe: replies that have not left", "t", "middle"),
  label(725, 361, "all three outlive the worker", "c", "middle"),
  arrow("M300 298H586", "soft"),
  label(420, 289, "passes descriptors (SCM_RIGHTS)", "c", "middle"),

  // Workers
  box(560, 408, 155, 76),
  label(637.5, 432, "worker A", "h", "middle"),
  label(637.5, 452, "serves the reads", "t", "middle"),
  label(637.5, 470, "no root, no rights", "c", "middle"),
  box(755, 408, 155, 76, { dashed: true }),
  label(832.5, 432, "worker B", "h", "middle"),
  label(832.5, 452, "takes over", "t", "middle"),
  label(832.5, 470, "in milliseconds", "c", "middle"),
  arrow("M832 372V404", "warn", "dash"),
  arrow("M637 484V540", "accent"),
  arrow("M832 484V540", "soft", "dash"),
  box(560, 544, 350, 46),
  label(735, 564, "image file, opened once, under a read lease", "t", "middle"),
  label(735, 581, "or a block device, or a module", "c", "middle"),
  arrow("M300 324C430 324 400 446 556 446", "soft"),
  label(372, 432, "starts, pings,", "c", "middle"),
  label(372, 448, "replaces", "c", "middle"),
];

export const architecture = () =>
  svg({
    width: WIDTH,
    height: HEIGHT,
    title: "erofs-nbd: control path and data path",
    style: STYLE,
    body: parts.join("\n"),
  });
