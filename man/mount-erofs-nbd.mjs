// @ts-check
/**
 * mount.erofs.nbd(8): how mount(8), umount(8) and fstab go with the helper. The table of its options is the code's own.
 */
import { bold, entry, italic, page, prose, roff, section } from "./roff.mjs";

/** @typedef {import("../src/cli/mount/mount-options.ts").NbdOption} NbdOption */

const DESCRIPTION = `
mount(8) calls this program for the type erofs.nbd. It attaches IMAGE as erofs-nbd mount does, mounts the device at DIR, and lets
the device end with its last mount: a plain umount(8) ends everything. It is found as /sbin/mount.erofs.nbd. erofs-nbd install-units
puts it there, together with what systemd needs; without systemd, erofs-nbd install-units --prefix / does. It is a script:

  #!/bin/sh
  exec /usr/local/bin/node /DIRECTORY/OF/erofs-nbd/dist/src/cli/mount-helper.cjs "$@"

A link to the program finds Node in /usr/bin or /bin alone, because mount(8) gives its helpers no PATH.

EROFS is read-only, and so is every mount; rw is not an error.
`;

const FLAGS = [
  ["-f", "check the call, the image and the directory, and do nothing"],
  ["-n", "accepted, without effect: the table in /run/mount is kept by mount(8) itself"],
  ["-s", "leave out options that neither mount(8) nor EROFS nor erofs-nbd knows"],
  ["-v", "say what is done"],
  ["-h, --help", "print a short help"],
  ["-V, --version", "print the version"],
];

const OPTIONS = `
Options of erofs-nbd are written nbd.NAME=VALUE and are taken out before the mount. They hold until the last umount; a remount
leaves them as they are. Of an option given several times the last counts.
`;

const OTHER_OPTIONS = `
An image that is not there is no failure with nofail. auto, noauto, _netdev, user, comment=, x-* and the like mean what they mean
to mount(8). Everything else is for the kernel (cache_strategy=, user_xattr, acl, dax=, ...), which refuses what it does not know.
Only root may mount, whatever fstab says: a device cannot be attached without CAP_SYS_ADMIN.
`;

const NOTES = `
The kernel's mount table shows the device (/dev/nbd3) and the type erofs. So findmnt -t erofs finds such mounts, umount DIR needs no
type, umount -t erofs.nbd and umount IMAGE match nothing, and there is no umount helper, because none would be called. erofs-nbd
umount DIR waits until the device is gone as well.

What is mounted from IMAGE at DIR already is left alone, and this is no failure: mount -a compares IMAGE with the device's name
and cannot know. remount changes what is mounted at DIR and attaches nothing.

With systemd a line of fstab waits for the file system that holds IMAGE, and comes after the manager's unit, by itself. With _netdev it
does not wait for that file system: add x-systemd.requires-mounts-for=DIRECTORY. Never write x-systemd.requires=erofs-nbd.service: systemd
would unmount IMAGE whenever the manager is restarted.

findmnt --verify complains of a type that the kernel does not know; mount(8) does not mind.

Another package's mount.erofs is what mount(8) runs for the type erofs.nbd where this program is not in /sbin.
`;

const EXAMPLES = `
A line of fstab; a space is written \\040:

  /srv/my\\040image.erofs  /srv/www  erofs.nbd  nofail,noatime,nbd.dead-timeout=3600  0 0

By hand:

  mount -t erofs.nbd -o nbd.connections=2,nodev image.erofs /mnt
  mount -o remount,nosuid /mnt
  umount /mnt
`;

const EXIT_STATUS = [
  ["0", "mounted, or mounted already, or nothing to mount with nofail"],
  ["1", "a wrong call, or not root"],
  ["2", "the system or the kernel refused to attach"],
  ["4", "a bug of erofs-nbd"],
  ["8", "interrupted; nothing is left behind"],
  ["32", "not mounted: no such image or directory, no EROFS image, or mount(8) refused"],
];

/**
 * @param {readonly NbdOption[]} options
 * @param {string} version
 */
export function mountHelperPage(options, version) {
  const flags = `[${bold("-sfnv")}] [${bold("-N")} ${italic("NAMESPACE")}] [${bold("-o")} ${italic("OPTIONS")}] [${bold("-t")} ${italic("TYPE")}]`;
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
      entry(`${bold("-o")} ${italic("OPTIONS")}`, "mount options, separated by commas: see below"),
      entry(
        `${bold("-N")} ${italic("NAMESPACE")}`,
        "mount in that mount namespace, a process id or a path, if the device's node is in its /dev; no remount there",
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
      roff("erofs-nbd doctor says what a machine lacks."),
    ],
  });
}
