/**
 * The mount options that mount(8) or EROFS in some kernel knows: with `-s` all others are dropped.
 *
 * Used by mount-options.ts with `-s` only. Otherwise the kernel decides.
 */

/** mount(8), section FILESYSTEM-INDEPENDENT MOUNT OPTIONS, and those of fstab(5). */
const INDEPENDENT =
  "ro rw defaults remount async sync dirsync atime noatime diratime nodiratime relatime norelatime strictatime " +
  "nostrictatime lazytime nolazytime dev nodev exec noexec suid nosuid iversion noiversion mand nomand silent loud " +
  "symfollow nosymfollow auto noauto user nouser users nousers owner noowner group nogroup _netdev nofail " +
  "context fscontext defcontext rootcontext seclabel comment uhelper helper bind rbind move private rprivate shared " +
  "rshared slave rslave unbindable runbindable";

/** fs/erofs/super.c, erofs_fs_parameters, Linux 5.4 to 7.2. */
const EROFS =
  "user_xattr nouser_xattr acl noacl cache_strategy dax device fsid domain_id directio fsoffset inode_share";

const KNOWN: ReadonlySet<string> = new Set([...INDEPENDENT.split(" "), ...EROFS.split(" ")]);

/** @param name the option without its value */
export function isKnownMountOption(name: string): boolean {
  return KNOWN.has(name) || /^[xX]-/.test(name);
}
