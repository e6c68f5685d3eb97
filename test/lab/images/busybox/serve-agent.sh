#!/bin/busybox sh
# The agent in the guest, as far as it takes one to shut the guest down: says a number back (guest-sync), which is how libvirt finds
# that it is there, and switches off (guest-shutdown). serve-agent.sh PORT, where PORT is the device of the channel.
while :; do
  while read -r line; do
    case $line in
      *'"guest-sync"'*) id=${line##*:} && echo "{\"return\": ${id%%\}*}}" ;;
      *'"guest-shutdown"'*) poweroff -f ;;
      *) echo '{"error": {"class": "CommandNotFound", "desc": "there is guest-sync and guest-shutdown"}}' ;;
    esac
  done <>"$1" >&0
  sleep 1 # Nobody has the other end open.
done
