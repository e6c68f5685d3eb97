#!/usr/bin/env bash
# Builds the small guest: Debian's cloud kernel and an initramfs of nothing but busybox-static and the services in this folder.
#
# usage: recipe.sh OUT      OUT is an empty directory; the caller renames it when this script ends well.
# Leaves vmlinuz, initrd.img and manifest.txt (every package with its version) in OUT. Needs no root.
#
# The packages are taken with a private apt configuration, so the release of the machine that builds does not matter and
# nothing is installed on it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$1" && pwd)
mirror=$("$here/../../debian-mirror.sh")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
work="$out/work"

[ -r "$keyring" ] || { echo "missing $keyring: apt-get install debian-archive-keyring" >&2; exit 1; }
command -v cpio >/dev/null || { echo "missing cpio: apt-get install cpio" >&2; exit 1; }

mkdir -p "$work"/apt/{state/lists/partial,cache/archives/partial,etc} "$work/debs" "$work/kernel" "$work/busybox"
echo "deb [signed-by=$keyring arch=amd64] $mirror bookworm main" >"$work/apt/etc/sources.list"
private=(-o "Dir::State=$work/apt/state" -o Dir::State::status=/dev/null -o "Dir::Cache=$work/apt/cache"
  -o "Dir::Etc::sourcelist=$work/apt/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o APT::Architecture=amd64 -o APT::Sandbox::User=root -o Acquire::Languages=none)

echo "  package lists from $mirror"
apt-get -qq "${private[@]}" update
kernel=$(apt-cache "${private[@]}" depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
echo "  $kernel and busybox-static"
(cd "$work/debs" && apt-get -qq "${private[@]}" download "$kernel" busybox-static)
for package in "$work"/debs/*.deb; do
  dpkg-deb --show --showformat '${Package} ${Version}\n' "$package"
done >"$out/manifest.txt"
dpkg-deb --extract "$work"/debs/linux-image-*.deb "$work/kernel"
dpkg-deb --extract "$work"/debs/busybox-static_*.deb "$work/busybox"

echo "  initramfs"
root="$work/root"
mkdir -p "$root"/{bin,dev,proc,sys,tmp,modules}
install -m 0755 "$work/busybox/bin/busybox" "$root/bin/busybox"
install -m 0755 "$here/init.sh" "$root/init"
install -m 0755 "$here"/serve-*.sh "$root/bin/"
# The order matters: each needs the ones before it (there is no depmod in there).
order=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover
  virtio_net virtio_blk virtio_console virtio_balloon pvpanic pvpanic-mmio button evdev)
for module in "${order[@]}"; do
  file=$(find "$work/kernel/lib/modules" -name "$module.ko*" -print -quit)
  [ -n "$file" ] || { echo "module $module is not in $kernel" >&2; exit 1; }
  case $file in
    *.xz) xz -dc "$file" >"$root/modules/$module.ko" ;;
    *) cp "$file" "$root/modules/$module.ko" ;;
  esac
  echo "$module" >>"$root/modules/order"
done
# Not compressed: unpacking costs more under emulation than reading does.
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null --create --format=newc --reproducible --owner=0:0) \
  >"$out/initrd.img"
cp "$work"/kernel/boot/vmlinuz-* "$out/vmlinuz"
rm -rf "$work"
