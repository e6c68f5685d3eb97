#!/bin/sh
# Addresses from the kernel command line: twinrun.ip=ADDRESS/BITS for the first NIC, twinrun.ip1= for the second.
for argument in $(cat /proc/cmdline); do
  case $argument in
    twinrun.ip=*) index=1 ;;
    twinrun.ip1=*) index=2 ;;
    *) continue ;;
  esac
  device=$(ls /sys/class/net | grep -v '^lo$' | sort | sed -n "${index}p")
  ip link set "$device" up
  ip address add "${argument#*=}" dev "$device"
done
