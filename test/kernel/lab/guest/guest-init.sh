#!/bin/sh
# First program of a lab guest, in the initramfs. Builds the root file system and hands over to guest-main.sh.
# The kernel command line gives as environment variables the shared directory (lab_share) and how the host's files are
# reached (lab_files): hostfs in User-Mode Linux, virtiofs in an emulated machine.
# Nothing here may write to the host: its files are mounted read-only, but for the one shared directory.
/bin/busybox mkdir -p /sbin
/bin/busybox --install -s /bin
PATH=/bin
export PATH

die() {
  echo "lab: $*"
  poweroff -f
  while :; do sleep 1; done
}

# hostfs takes its path as a plain option string, newer kernels as hostfs=PATH: try both. virtiofs knows a directory
# by a tag.
mount_host() { # TAG HOST_PATH MOUNT_POINT MODE
  [ "$lab_files" = virtiofs ] && { mount -t virtiofs -o "$4" "$1" "$3"; return; }
  mount -t hostfs -o "$4,hostfs=$2" none "$3" 2>/dev/null && return 0
  mount -t hostfs -o "$4,$2" none "$3"
}

mount -t proc proc /proc || die "cannot mount /proc"
mount -t sysfs sysfs /sys || die "cannot mount /sys"
[ -f /overlay.ko ] && { insmod /overlay.ko || die "cannot load overlay"; }
mount_host host / /host ro || die "cannot mount the host's files"
mount -t tmpfs -o size=75%,mode=755 scratch /scratch || die "cannot mount the scratch tmpfs"
mkdir /scratch/upper /scratch/work
mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work overlay /newroot ||
  die "cannot mount the overlay"
. "/host$lab_share/settings.sh" || die "cannot read the settings"

# Fresh, empty places; what the host has there is none of the guest's business.
for place in tmp run dev/shm; do
  [ $place = dev/shm ] && { mount -t devtmpfs dev /newroot/dev; mkdir -p /newroot/dev/shm /newroot/dev/pts; }
  mkdir -p /newroot/$place
  mount -t tmpfs -o mode=1777 tmpfs /newroot/$place || die "cannot mount /$place"
done
chmod 755 /newroot/run
mkdir -p /newroot/run/lock /newroot/run/lab
mount -t devpts -o ptmxmode=666 devpts /newroot/dev/pts
umount /proc && mount -t proc proc /newroot/proc || die "cannot mount /proc again"
umount /sys && mount -t sysfs sysfs /newroot/sys || die "cannot mount /sys again"
mount -t cgroup2 cgroup2 /newroot/sys/fs/cgroup 2>/dev/null
mount -t debugfs debugfs /newroot/sys/kernel/debug 2>/dev/null

# The project stays where it is on the host, even under a place that was just emptied.
case $lab_project in
  /tmp/*|/run/*|/dev/*)
    mkdir -p /scratch/project /scratch/project-work "/newroot$lab_project"
    mount -t overlay -o "lowerdir=/host$lab_project,upperdir=/scratch/project,workdir=/scratch/project-work" \
      overlay "/newroot$lab_project" || die "cannot mount the project" ;;
esac

# Modules, and busybox's tools for them: the same on every host, kmod or not.
mkdir -p "/newroot/lib/modules/$lab_version" /newroot/usr/sbin
mount -o bind "/host$lab_modules" "/newroot/lib/modules/$lab_version" || die "cannot show the modules"
cp /bin/busybox /newroot/run/lab/busybox
for tool in modprobe insmod rmmod lsmod depmod; do
  rm -f /newroot/sbin/$tool /newroot/usr/sbin/$tool /newroot/bin/$tool /newroot/usr/bin/$tool
  ln -s /run/lab/busybox /newroot/usr/sbin/$tool
  [ -L /newroot/sbin/$tool ] || ln -s /run/lab/busybox /newroot/sbin/$tool
done

mkdir -p "/newroot$lab_share"
mount_host share "$lab_share" "/newroot$lab_share" rw || die "cannot mount the shared directory"
exec switch_root /newroot /run/lab/busybox sh "$lab_share/guest-main.sh"
