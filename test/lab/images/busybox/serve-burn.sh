#!/bin/busybox sh
# Work that needs nothing but the processor: a line "N" in, N turns of a loop, "N" out. The client holds the watch: the guest's
# own clock stands still while it is paused and would hide exactly what is to be measured.
while read -r turns rest; do
  i=0
  while [ $i -lt "$turns" ]; do i=$((i + 1)); done
  echo "$turns"
done
