#!/usr/bin/env bash
# Builds the large guest: Debian 12 with PostgreSQL (a pgbench database of scale 1 inside) and Redis on a 3 GiB ext4 disk.
#
# usage: recipe.sh OUT      OUT is an empty directory; the caller renames it when this script ends well. Needs root.
# Leaves vmlinuz, initrd.img, root.raw (sparse) and manifest.txt (every package with its version) in OUT.
#
# Everything that mounts or starts something happens in a mount and PID namespace of its own, so nothing of it outlives this
# script, however it ends.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$1" && pwd)
mirror=$("$here/../../debian-mirror.sh")
root="$out/work"

if [ "${TWINRUN_IN_NAMESPACE:-}" != yes ]; then
  for tool in debootstrap mke2fs unshare; do
    command -v "$tool" >/dev/null || { echo "missing $tool: apt-get install debootstrap e2fsprogs util-linux" >&2; exit 1; }
  done
  [ "$(id -u)" = 0 ] || { echo "the Debian guest can only be built by root (debootstrap, chroot)" >&2; exit 1; }
  TWINRUN_IN_NAMESPACE=yes exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$out"
fi

packages=systemd-sysv,udev,iproute2,linux-image-cloud-amd64,initramfs-tools,postgresql,postgresql-contrib,redis-server
echo "  debootstrap bookworm from $mirror (a minute or two)"
debootstrap --variant=minbase --include="$packages" bookworm "$root" "$mirror" >"$out/debootstrap.log" 2>&1 ||
  { tail -n 20 "$out/debootstrap.log" >&2; exit 1; }
chroot "$root" dpkg-query --show --showformat '${Package} ${Version}\n' >"$out/manifest.txt"

echo "  configuration"
echo guest >"$root/etc/hostname"
echo '/dev/vda / ext4 noatime 0 0' >"$root/etc/fstab"
printf '127.0.0.1 localhost guest\n' >"$root/etc/hosts"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf"
chroot "$root" passwd --quiet --delete root
install -m 0755 "$here/lab-network.sh" "$here/lab-lines.pl" "$root/usr/local/sbin/"
install -m 0644 "$here"/*.service "$root/etc/systemd/system/"
for unit in lab-network lab-lines; do
  ln -sf "/etc/systemd/system/$unit.service" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
done
# Nothing that wakes up by itself, so that two measurements see the same guest.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  logrotate.timer man-db.timer systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service \
  systemd-tmpfiles-clean.timer systemd-update-utmp.service systemd-update-utmp-runlevel.service \
  systemd-random-seed.service systemd-pcrphase.service modprobe@.service sys-kernel-debug.mount sys-kernel-tracing.mount \
  dev-hugepages.mount dev-mqueue.mount ifupdown-pre.service networking.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# PostgreSQL: durable as it comes (fsync, synchronous_commit on); open to the guest network of the lab and to nothing else.
postgres="$root/etc/postgresql/15/main"
cat >>"$postgres/postgresql.conf" <<'END'
listen_addresses = '*'
END
cat >>"$postgres/pg_hba.conf" <<'END'
host all all 10.77.0.0/24 trust
END
# Redis: in memory only (no snapshot, no append-only file). What reaches the disk is PostgreSQL's part.
sed -i -e 's/^bind .*/bind 0.0.0.0/' -e 's/^protected-mode .*/protected-mode no/' -e 's/^daemonize .*/daemonize no/' \
  -e 's/^appendonly .*/appendonly no/' "$root/etc/redis/redis.conf"
echo 'save ""' >>"$root/etc/redis/redis.conf"

echo "  databases"
mount -t tmpfs tmpfs "$root/dev/shm" 2>/dev/null || { mkdir -p "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"; }
chroot "$root" /bin/bash -euo pipefail <<'END' >"$out/databases.log" 2>&1 || { tail -n 20 "$out/databases.log" >&2; exit 1; }
export LC_ALL=C.UTF-8
mkdir -p /var/run/postgresql && chown postgres:postgres /var/run/postgresql
[ -d /var/lib/postgresql/15/main ] || pg_createcluster 15 main
# Only on a socket of this chroot: the machine that builds may have a server on 5432 itself.
pg() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
pg /usr/lib/postgresql/15/bin/pg_ctl -D /var/lib/postgresql/15/main -w -s \
  -o "-c config_file=/etc/postgresql/15/main/postgresql.conf -c listen_addresses= -c unix_socket_directories=/var/run/postgresql" start
pg psql -q -h /var/run/postgresql -c 'create role lab login superuser'
pg createdb -h /var/run/postgresql -O lab lab
pg /usr/lib/postgresql/15/bin/pgbench -h /var/run/postgresql -U postgres -i -s 1 -q lab
pg psql -q -h /var/run/postgresql -d lab -c \
  'create table ledger (connection int, number bigint, primary key (connection, number)); alter table ledger owner to lab'
for table in pgbench_accounts pgbench_branches pgbench_history pgbench_tellers; do
  pg psql -q -h /var/run/postgresql -d lab -c "alter table $table owner to lab"
done
pg vacuumdb -h /var/run/postgresql -q --all --analyze --freeze
pg /usr/lib/postgresql/15/bin/pg_ctl -D /var/lib/postgresql/15/main -w -s -m fast stop
END
umount "$root/dev/shm"

echo "  initramfs"
# Only what finds and mounts the disk, not compressed: unpacking is slow under emulation.
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=lz4/' "$root/etc/initramfs-tools/initramfs.conf"
printf 'virtio_pci\nvirtio_blk\nvirtio_net\next4\ncrc32c_generic\n' >>"$root/etc/initramfs-tools/modules"
command -v lz4 >/dev/null || true
chroot "$root" update-initramfs -u -k all >"$out/initramfs.log" 2>&1 || { tail -n 20 "$out/initramfs.log" >&2; exit 1; }
cp "$root"/boot/vmlinuz-*-cloud-amd64 "$out/vmlinuz"
cp "$root"/boot/initrd.img-*-cloud-amd64 "$out/initrd.img"

echo "  disk"
rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/{doc,man,locale,info} "$root"/boot/* "$root"/var/log/*.log
mkdir -p "$root/var/cache/apt" "$root/var/lib/apt/lists"
truncate --size 3G "$out/root.raw"
# Inode tables are written now: the kernel would do it in the background of somebody's measurement.
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0,discard -L root -d "$root" "$out/root.raw"
fallocate --dig-holes "$out/root.raw"
rm -rf "$root" "$out"/*.log
