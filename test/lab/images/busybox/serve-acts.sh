#!/bin/busybox sh
# What a guest does to itself when it is told to, a line a connection: it reboots, panics or switches itself off; makes a file system
# on a disk, writes a file there and syncs it; draws on its display; fills memory and tells what is in it; tells its devices.
read -r act argument || exit 0
case $act in
  reboot) reboot -f ;;
  panic) echo 1 >/proc/sys/kernel/sysrq && echo c >/proc/sysrq-trigger ;;
  poweroff) poweroff -f ;;
  mount) mke2fs "/dev/$argument" >/dev/null 2>&1 && mkdir -p /files && mount "/dev/$argument" /files && echo done ;;
  write) echo "$argument" >/files/line && sync && cat /files/line ;;
  draw) printf '\033[?25l%s' "$argument" >/dev/tty1 && echo done ;; # Without a cursor, which blinks.
  remember) dd if=/dev/urandom of=/tmp/remembered bs=1M count=24 2>/dev/null && sha1sum /tmp/remembered ;;
  recall) sha1sum /tmp/remembered ;;
  devices) echo $(ls /sys/block | grep ^vd) $(ls /sys/class/net | grep ^eth) $(nproc) ;;
esac
