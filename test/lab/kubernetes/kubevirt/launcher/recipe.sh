#!/bin/bash
# Builds the file system of the virt-launcher image: Debian 13 with QEMU 10 and libvirt, and the user `qemu` of KubeVirt's images.
#
# usage: recipe.sh OUT      OUT is an empty directory; the caller renames it when this script ends well. Needs root.
# Leaves in OUT: base.tar, manifest.txt (every package with its version), machines.txt and cpu-models.json (what this QEMU offers
# under emulation). The launcher's program is a layer of its own, see launcher-image.ts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$1" && pwd)
root=$out/root

[ "$(id -u)" = 0 ] || { echo "the launcher image can only be built by root (debootstrap, chroot)" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "missing debootstrap: apt-get install debootstrap" >&2; exit 1; }
mirror=$("$here/../../../debian-mirror.sh")

echo "  debootstrap trixie from $mirror"
debootstrap --variant=minbase trixie "$root" "$mirror" >"$out/setup.log" 2>&1 || { tail -n 20 "$out/setup.log" >&2; exit 1; }
# There are no services in a chroot: maintainer scripts are kept from starting any.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cp /etc/resolv.conf /etc/hosts "$root/etc/" 2>/dev/null || true
if [ -d /etc/apt/apt.conf.d ]; then # A proxy that the machine needs is needed in there too.
  grep -rhi '^ *acquire::.*proxy' /etc/apt/apt.conf /etc/apt/apt.conf.d 2>/dev/null >"$root/etc/apt/apt.conf.d/90proxy" || true
fi

echo "  QEMU and libvirt"
{
  DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q update &&
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q -y --no-install-recommends install \
      qemu-system-x86 qemu-system-common qemu-system-data qemu-utils seabios ipxe-qemu \
      libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients xorriso
} >>"$out/setup.log" 2>&1 || { tail -n 20 "$out/setup.log" >&2; exit 1; }
# shellcheck disable=SC2016 # dpkg-query fills these in, not the shell.
chroot "$root" dpkg-query --show --showformat '${Package} ${Version}\n' >"$out/manifest.txt"

chroot "$root" qemu-system-x86_64 -machine help >"$out/machines.txt"
for command in qmp_capabilities query-cpu-definitions quit; do
  echo "{\"execute\": \"$command\", \"id\": \"$command\"}"
done | chroot "$root" qemu-system-x86_64 -machine none -accel tcg -display none -qmp stdio |
  grep '"id": "query-cpu-definitions"' >"$out/cpu-models.json"

echo "  file system"
# KubeVirt's user. Whoever has this id in Debian runs nothing in the image.
sed -i '/^[^:]*:[^:]*:107:/d' "$root/etc/passwd" "$root/etc/group"
echo 'qemu:x:107:107::/var/run/kubevirt-private:/usr/sbin/nologin' >>"$root/etc/passwd"
echo 'qemu:x:107:' >>"$root/etc/group"
rm -rf "$root"/usr/share/{doc,man,locale,info,bash-completion,perl} "$root"/var/{cache,lib/apt,lib/dpkg,log}/* \
  "$root"/usr/bin/qemu-system-{i386,x86_64-microvm} "$root/usr/share/qemu-efi-aarch64" "$root/etc/apt/apt.conf.d/90proxy"
# In a pod these are volumes and files of the node's.
rm -rf "${root:?}"/dev/* "${root:?}"/run/* && : >"$root/etc/hosts" && : >"$root/etc/resolv.conf"
# Relative as in KubeVirt's images: an absolute link, followed through /proc/PID/root, leads into the reader's own /run.
ln -sfn ../run "$root/var/run"
mkdir -p "$root"/run/{libvirt,kubevirt,kubevirt-private,kubevirt-hooks,kubevirt-ephemeral-disks}
chown 107:107 "$root"/run/{libvirt,kubevirt,kubevirt-private,kubevirt-ephemeral-disks}
tar --create --file "$out/base.tar" --format=pax --xattrs --numeric-owner --sort=name --directory "$root" .
rm -rf "$root" "$out/setup.log"
