#!/bin/busybox sh
# PID 1 of the small guest. Reads its addresses from the kernel command line (twinrun.ip=ADDRESS/BITS for eth0,
# twinrun.ip1= for eth1 and so on), starts the services and says "twinrun: guest ready" on the serial line.
#
# One port per connection, because busybox has no server that takes several: nc -l takes one, then the loop listens again.
#   7000+i  synced lines (serve-synced), 16 of them     7200+i  echo from memory, 16 of them
#   7100    counting work (serve-burn), 4 of them        7300    sectors of a disk (serve-sectors), 2 of them
#   7400    what a guest does to itself (serve-acts)
/bin/busybox mkdir -p /bin /dev /proc /sys /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
while read -r module; do insmod "/modules/$module.ko"; done </modules/order

# The console must not pause the guest when the host does not read it, nor fill the log with noise.
dmesg -n 1
ip link set lo up
for argument in $(cat /proc/cmdline); do
  case $argument in
    twinrun.ip=*) ip link set eth0 up; ip address add "${argument#*=}" dev eth0 ;;
    twinrun.ip[1-9]=*)
      card=eth${argument%%=*} card=eth${card#ethtwinrun.ip}
      ip link set "$card" up
      ip address add "${argument#*=}" dev "$card"
      ;;
  esac
done

listen() { # listen PORT PROGRAM [ARGUMENT]: one connection after the other, for ever
  while :; do
    nc -l -p "$@" 2>/dev/null || usleep 100000
  done
}
i=0
while [ $i -lt 16 ]; do
  listen $((7000 + i)) -e /bin/serve-synced.sh $i &
  listen $((7200 + i)) -e /bin/cat &
  [ $i -lt 4 ] && listen $((7100 + i)) -e /bin/serve-burn.sh &
  [ $i -lt 2 ] && listen $((7300 + i)) -e /bin/serve-sectors.sh &
  i=$((i + 1))
done
listen 7400 -e /bin/serve-acts.sh &
for channel in /sys/class/virtio-ports/*; do
  [ "$(cat "$channel/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && serve-agent.sh "/dev/${channel##*/}" &
done
# Whoever presses the power button ends the guest.
button=$(sed -n '/Power Button/,/^H:/s/^H:.*\(event[0-9]*\).*/\1/p' /proc/bus/input/devices | head -n 1)
{ dd "if=/dev/input/$button" of=/dev/null bs=24 count=1 2>/dev/null && poweroff -f; } &
echo "twinrun: guest ready" >/dev/console
while :; do sleep 3600; done
