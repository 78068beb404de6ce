#!/bin/sh
# Process 1 of a lab guest once its root is in place: loads the wanted modules, runs the command, leaves its exit
# status and the kernel log in the shared directory and powers off. Runs under the lab's own busybox.
share=${0%/*}
. "$share/settings.sh"
box=/run/lab/busybox
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

$box ifconfig lo 127.0.0.1 netmask 255.0.0.0 up
$box hostname erofs-nbd-lab
for module in $lab_load; do
  /sbin/modprobe "$module" || echo "cannot load $module" >>"$share/stderr"
done

# Shortly before the host's time limit ends everything, have the kernel say what it is blocked on.
(
  $box sleep "$lab_last_words_seconds"
  echo w >/proc/sysrq-trigger
  $box dmesg >"$share/dmesg"
) >/dev/null 2>&1 </dev/null &

# Uptime at this moment is what booting cost; the host reads it.
$box cat /proc/uptime >"$share/started"
# The command as process 1 itself: an init, which leaves status and kernel log and powers off in its own way.
[ -n "$lab_init" ] && exec $box sh "$share/command.sh" </dev/null >>"$share/stdout" 2>>"$share/stderr"
$box sh "$share/command.sh" </dev/null >>"$share/stdout" 2>>"$share/stderr"
echo $? >"$share/status.new"
$box dmesg >"$share/dmesg"
$box mv "$share/status.new" "$share/status"
# No sync: what counts is written through already, and a device without a worker could block it for ever.
$box poweroff -n -f
