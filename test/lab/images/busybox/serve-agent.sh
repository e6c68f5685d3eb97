#!/bin/busybox sh
# The agent in the guest, as far as it takes one to shut the guest down and to stop its writes: says a number back (guest-sync), which
# is how libvirt finds that it is there, switches off (guest-shutdown), freezes the file system that serve-acts mounted and thaws it.
# serve-agent.sh PORT, where PORT is the device of the channel.
refuse() { echo '{"error": {"class": "GenericError", "desc": "see serve-agent.sh"}}'; }
while :; do
  while read -r line; do
    case $line in
      *'"guest-sync"'*) id=${line##*:} && echo "{\"return\": ${id%%\}*}}" ;;
      *'"guest-shutdown"'*) poweroff -f ;;
      *'"guest-fsfreeze-freeze"'*) fsfreeze --freeze /files && >/tmp/frozen && echo '{"return": 1}' || refuse ;;
      *'"guest-fsfreeze-thaw"'*) fsfreeze --unfreeze /files && rm /tmp/frozen && echo '{"return": 1}' || refuse ;;
      *'"guest-fsfreeze-status"'*) [ -e /tmp/frozen ] && echo '{"return": "frozen"}' || echo '{"return": "thawed"}' ;;
      *) refuse ;;
    esac
  done <>"$1" >&0
  sleep 1 # Nobody has the other end open.
done
