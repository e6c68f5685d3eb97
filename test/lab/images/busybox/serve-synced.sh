#!/bin/busybox sh
# Request-reply with a synced write, one connection: serve-synced.sh CONNECTION
#
# A line "N" in; "CONNECTION N" goes to the disk in a sector of its own and is flushed; "N COUNT LAST" out, where COUNT is how
# many requests this connection has served and LAST the number before N. COUNT and LAST live in memory only, so a guest whose
# memory was set back, or that ran a request twice, gives itself away.
#
# On the disk: connection C owns the 16384 sectors from C * 16384 on (8 MiB, together 128 MiB); N is in sector N % 16384 of
# them. A guest with a second disk keeps the odd connections there.
connection=$1
disk=/dev/vda
[ $((connection % 2)) -eq 1 ] && [ -b /dev/vdb ] && disk=/dev/vdb
base=$((connection * 16384))
count=0
last=-
while read -r number rest; do
  case $number in
    '' | *[!0-9]*) echo "error: a request is a decimal number"; continue ;;
  esac
  dd of="$disk" bs=512 seek=$((base + number % 16384)) conv=sync,notrunc,fsync oflag=direct 2>/dev/null <<END || { echo "error: write"; continue; }
$connection $number
END
  count=$((count + 1))
  echo "$number $count $last"
  last=$number
done
