#!/bin/sh
# Process 1 of the systemd guest, until it becomes systemd: a machine with erofs-nbd installed, an image in its fstab,
# and a unit that runs story.mjs. Arguments: node, the project. Only the guest's overlay and the shared directory are
# written.
node=$1
project=$2
share=$EROFS_NBD_LAB_SHARE
units=/etc/systemd/system
here=$project/test/kernel/systemd

# systemd must not take the guest for a container, as the host may be one. Only its own units run, and of those only
# what the guest needs.
rm -rf /.dockerenv /run/.containerenv /etc/init.d /etc/rc?.d
rm -rf $units/* /usr/local/lib/systemd /etc/systemd/system.conf /etc/systemd/*.conf.d
for unit in \
  dbus.service dbus.socket getty.target systemd-logind.service systemd-networkd.service systemd-timesyncd.service \
  systemd-journald-audit.socket systemd-journal-flush.service systemd-machine-id-commit.service \
  systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
  systemd-tmpfiles-setup.service systemd-sysctl.service systemd-tmpfiles-setup-dev.service systemd-remount-fs.service \
  systemd-binfmt.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-boot-update.service \
  systemd-firstboot.service systemd-sysusers.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount \
  dev-mqueue.mount sys-kernel-config.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
  kmod-static-nodes.service systemd-ask-password-wall.path systemd-ask-password-console.path cryptsetup.target \
  integritysetup.target veritysetup.target systemd-initctl.socket systemd-journald.service systemd-journald.socket \
  systemd-journald-dev-log.socket systemd-journald@.service systemd-repart.service systemd-user-sessions.service \
  rc-local.service plymouth-quit-wait.service; do
  ln -sf /dev/null "$units/$unit"
done

mkdir -p /srv /mnt/image
cp "$share/image.erofs" /srv/image.erofs
cp "$share/image.erofs" /srv/other-image.erofs
cd "$project" || exit 1
# The project may belong to any user: it is where the host has it.
"$node" dist/src/cli/main.cjs install-units --prefix / --force || echo "install-units failed" >&2
mkdir -p $units/erofs-nbd.service.d
# The watchdog is shorter than the unit's half minute, for the test's sake, and long enough for a busy machine. There is
# no journald: the manager's output goes to the shared directory.
cat >$units/erofs-nbd.service.d/lab.conf <<DROPIN
[Service]
WatchdogSec=20s
StandardOutput=append:$share/manager
StandardError=append:$share/manager
DROPIN
systemctl enable erofs-nbd.service remote-fs.target 2>>"$share/stderr"
echo "/srv/image.erofs /mnt/image erofs.nbd _netdev,ro 0 0" >/etc/fstab
cat >$units/story.service <<UNIT
[Unit]
After=remote-fs.target
[Service]
Type=oneshot
Environment=EROFS_NBD_LAB_SHARE=$share PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=$node $here/story.mjs
StandardOutput=append:$share/stdout
StandardError=append:$share/stderr
# The story ends with the power.
ExecStopPost=/usr/bin/systemctl poweroff --no-block
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable story.service 2>>"$share/stderr"

# The last thing that runs in this machine: file systems are unmounted, units are stopped.
mkdir -p /usr/lib/systemd/system-shutdown
cat >/usr/lib/systemd/system-shutdown/lab.sh <<HOOK
#!/bin/sh
box=/run/lab/busybox
\$box mkdir -p /run/lab/share
\$box mount -t hostfs -o hostfs=$share none /run/lab/share || \$box mount -t hostfs -o $share none /run/lab/share
exec >/run/lab/share/at-the-end 2>&1
echo "mounts:"; \$box grep -E 'erofs|nbd' /proc/mounts
echo "devices:"; \$box cat /sys/block/nbd*/pid 2>/dev/null
echo "processes:"; \$box ps -o args | \$box grep -E '^[e]rofs-nbd|[n]ode '
\$box dmesg >/run/lab/share/dmesg
echo 0 >/run/lab/share/status
HOOK
chmod 755 /usr/lib/systemd/system-shutdown/lab.sh
echo on >/proc/sys/kernel/printk_devkmsg
exec /lib/systemd/systemd --unit=multi-user.target --log-target=kmsg --log-level=info --show-status=no
