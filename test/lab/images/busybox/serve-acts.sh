#!/bin/busybox sh
# What a guest does to itself when it is told to, a line a connection: it reboots, panics, leaves its watchdog alone, switches itself
# off; makes a file system on a disk, writes a file there and syncs it; draws on its display; fills memory and tells what is in it;
# changes so many MiB of memory over and over, until it is told to stop; tells its devices.

# An i6300esb, for which this kernel has no driver: two stages of a second each, after which it fires.
start_watchdog() {
  for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/device")" = 0x25ab ] || continue
    echo 1 >"$device/enable"
    read -r base rest <"$device/resource"
    for timer in 0 4; do
      devmem $((base + 12)) 16 0x80 && devmem $((base + 12)) 16 0x86 && devmem $((base + timer)) 32 1000
    done
    printf '\002' | dd of="$device/config" bs=1 seek=104 conv=notrunc 2>/dev/null
  done
}

read -r act argument || exit 0
case $act in
  reboot) reboot -f ;;
  panic) echo 1 >/proc/sys/kernel/sysrq && echo c >/proc/sysrq-trigger ;;
  poweroff) poweroff -f ;;
  hang) start_watchdog ;;
  mount) mke2fs "/dev/$argument" >/dev/null 2>&1 && mkdir -p /files && mount "/dev/$argument" /files && echo done ;;
  write) echo "$argument" >/files/line && sync && cat /files/line ;;
  draw) printf '\033[?25l%s' "$argument" >/dev/tty1 && echo done ;; # Without a cursor, which blinks.
  remember) dd if=/dev/urandom of=/tmp/remembered bs=1M count=24 2>/dev/null && sha1sum /tmp/remembered ;;
  recall) sha1sum /tmp/remembered ;;
  churn)
    for name in one other; do dd if=/dev/urandom of=/tmp/$name bs=1M count="$argument" 2>/dev/null; done
    touch /tmp/churning
    while [ -e /tmp/churning ]; do
      for name in one other; do dd if=/tmp/$name of=/tmp/churned bs=1M conv=notrunc; done
    done >/dev/null 2>&1 </dev/null &
    echo done
    ;;
  rest) rm -f /tmp/churning && echo done ;;
  devices) echo $(ls /sys/block | grep ^vd) $(ls /sys/class/net | grep ^eth) $(nproc) ;;
esac
