// @ts-check
/**
 * Generates mount.erofs.nbd(8): using the helper with mount(8), umount(8) and fstab. The options come from the code.
 */
import { bold, entry, italic, page, prose, roff, section } from "./roff.mjs";

/** @typedef {import("../src/cli/mount/mount-options.ts").NbdOption} NbdOption */

const DESCRIPTION = `
mount(8) calls this program for the type erofs.nbd. It attaches IMAGE as erofs-nbd mount does and mounts the device at
DIR. The device is detached with its last mount, so a plain umount(8) is enough. mount(8) looks for the program in
/sbin. erofs-nbd install-units installs it there together with the systemd units; without systemd use
erofs-nbd install-units --prefix /. It is a script:

  #!/bin/sh
  exec /usr/local/bin/node /DIRECTORY/OF/erofs-nbd/dist/src/cli/mount-helper.cjs "$@"

A link to the program finds Node.js in /usr/bin or /bin only, because mount(8) runs helpers without PATH.

EROFS is read-only, and so is every mount; rw is ignored.
`;

const FLAGS = [
  ["-f", "check the arguments, the image and the directory, but do not mount"],
  ["-n", "accepted, no effect: mount(8) itself keeps the table in /run/mount"],
  ["-s", "ignore options that neither mount(8) nor EROFS nor erofs-nbd knows"],
  ["-v", "print what is done"],
  ["-h, --help", "print a short help"],
  ["-V, --version", "print the version"],
];

const OPTIONS = `
Options of erofs-nbd are spelled nbd.NAME=VALUE and are removed before the mount. They apply until the last umount; a
remount does not change them. If an option is repeated, the last one counts.
`;

const OTHER_OPTIONS = `
With nofail a missing image is no failure. auto, noauto, _netdev, user, comment=, x-* and the like have their meaning in
mount(8). All other options are passed to the kernel (cache_strategy=, user_xattr, acl, dax=, ...), which rejects
unknown ones. With fsoffset=BYTES (Linux 6.16) the image begins at that offset of the file. device=IMAGE
names an image with further data of the file system, once for each, in order; it is attached, and detached with the
mount, as IMAGE is. Only root may mount, even with user in fstab: attaching a device requires CAP_SYS_ADMIN.
`;

const NOTES = `
The kernel's mount table shows the device (/dev/nbd3) and the type erofs. Therefore findmnt -t erofs lists such mounts,
umount DIR needs no type, and umount -t erofs.nbd and umount IMAGE match nothing. There is no umount helper, because
none would be called. erofs-nbd umount DIR also waits until the device is detached.

If IMAGE is mounted at DIR already, nothing is done, and that is no failure: mount -a compares IMAGE with the name of
the device, so it cannot detect this. remount changes the mount at DIR and attaches nothing.

With systemd a line of fstab is ordered after the file system that contains IMAGE and after the manager's unit
automatically. With _netdev it does not wait for that file system: add x-systemd.requires-mounts-for=DIRECTORY. Do not
use x-systemd.requires=erofs-nbd.service: systemd would unmount IMAGE whenever the manager is restarted.

findmnt --verify reports a type that is unknown to the kernel; mount(8) accepts it.

If this program is not in /sbin, mount(8) runs mount.erofs of another package for the type erofs.nbd.
`;

const EXAMPLES = `
A line of fstab; a space is spelled \\040:

  /srv/my\\040image.erofs  /srv/www  erofs.nbd  nofail,noatime,nbd.dead-timeout=3600  0 0

Commands:

  mount -t erofs.nbd -o nbd.connections=2,nodev image.erofs /mnt
  mount -o remount,nosuid /mnt
  umount /mnt
`;

const EXIT_STATUS = [
  ["0", "mounted, or mounted already, or nothing to mount with nofail"],
  ["1", "wrong usage, or not root"],
  ["2", "the system or the kernel refused to attach"],
  ["4", "internal error (a bug in erofs-nbd)"],
  ["8", "interrupted; nothing is left behind"],
  ["32", "not mounted: no such image or directory, no EROFS image, or mount(8) refused"],
];

/**
 * @param {readonly NbdOption[]} options
 * @param {string} version
 */
export function mountHelperPage(options, version) {
  const valued = [
    ["-N", "NAMESPACE"],
    ["-o", "OPTIONS"],
    ["-t", "TYPE"],
  ];
  const flags = [
    `[${bold("-sfnv")}]`,
    ...valued.map(([name = "", value = ""]) => `[${bold(name)} ${italic(value)}]`),
  ].join(" ");
  return page({
    name: "mount.erofs.nbd",
    summary: "mount an EROFS image through erofs-nbd",
    version,
    body: [
      section("Synopsis"),
      `${bold("mount -t erofs.nbd")} [${bold("-o")} ${italic("OPTIONS")}] ${italic("IMAGE DIR")}`,
      ".br",
      `${bold("mount.erofs.nbd")} ${italic("IMAGE DIR")} ${flags}`,
      section("Description"),
      prose(DESCRIPTION),
      section("Flags"),
      entry(`${bold("-o")} ${italic("OPTIONS")}`, "mount options, comma-separated: see below"),
      entry(
        `${bold("-N")} ${italic("NAMESPACE")}`,
        "mount in that mount namespace, a process id or a path, if its /dev has the device's node; not for remounts",
      ),
      entry(`${bold("-t")} ${italic("TYPE")}`, "erofs.nbd or erofs"),
      ...FLAGS.map(([name = "", text = ""]) => entry(bold(name), text)),
      section("Mount options"),
      prose(OPTIONS),
      ...options.map(({ name, value, summary }) => entry(`${bold(`nbd.${name}`)}=${italic(value)}`, summary)),
      prose(OTHER_OPTIONS),
      section("Notes"),
      prose(NOTES),
      section("Examples"),
      prose(EXAMPLES),
      section("Exit status"),
      ...EXIT_STATUS.map(([name = "", text = ""]) => entry(bold(name), text)),
      section("See also"),
      ["erofs-nbd(8)", "mount(8)", "umount(8)", "findmnt(8)", "fstab(5)"].map(bold).join(",\n"),
      ".PP",
      roff("erofs-nbd doctor checks what a machine needs."),
    ],
  });
}
