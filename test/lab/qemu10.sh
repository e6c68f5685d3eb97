#!/bin/bash
# Puts QEMU 10 (Debian 13) beside the machine's own QEMU, so that tests run against both, and prints the path of a
# command that starts it.
#
#   usage: qemu10.sh            the last line on standard output is the path of qemu-system-x86_64
#
# A minimal Debian 13 root is made by debootstrap under $TWINRUN_CACHE/qemu10, else ~/.cache/twinrun/qemu10 (about 30 s,
# 700 MB), and its QEMU runs on this host through that root's own dynamic loader and libraries: no container, no chroot at
# run time, so the files, sockets and /proc of the host are QEMU's as well, and LD_PRELOAD works as usual. Run again it
# only checks.
# Needs root (debootstrap), debootstrap and a Debian mirror; TWINRUN_DEBIAN_MIRROR names another one. Debian keeps only
# the newest build of a stable package on its mirrors, so the pin is the suite and the major version; for an exact
# repeat set TWINRUN_DEBIAN_MIRROR to an address in Debian's snapshot archive.
set -euo pipefail

suite=trixie
major=10
cache=${TWINRUN_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/twinrun}/qemu10
root=$cache/root
command=$cache/qemu-system-x86_64

say() { echo "qemu10: $*" >&2; }

is_ready() {
  [ -x "$command" ] && "$command" --version 2>/dev/null | grep -q "version $major\."
}

write_command() {
  local name=$1
  cat >"$cache/$name.new" <<END
#!/bin/sh
# Made by test/lab/qemu10.sh: Debian 13's $name with its own loader, libraries, modules and firmware.
root=$root
export QEMU_MODULE_DIR=\$root/usr/lib/x86_64-linux-gnu/qemu
exec "\$root/usr/lib64/ld-linux-x86-64.so.2" --argv0 "$name" \\
  --library-path "\$root/usr/lib/x86_64-linux-gnu:\$root/usr/lib/x86_64-linux-gnu/pulseaudio" "\$root/usr/bin/$name" $2 "\$@"
END
  chmod 755 "$cache/$name.new"
  mv "$cache/$name.new" "$cache/$name"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
if ! flock --nonblock 9; then
  say "another run is at it, waiting"
  flock 9
fi
if is_ready; then
  say "ready: $("$command" --version | head -1)"
  echo "$command"
  exit 0
fi

[ "$(id -u)" = 0 ] || { say "needs root for debootstrap: run it once as root with TWINRUN_CACHE set to your cache"; exit 1; }
command -v debootstrap >/dev/null || { say "debootstrap is missing: apt-get install debootstrap"; exit 1; }

mirror=$("$(dirname "$0")/debian-mirror.sh")
# Made under another name and moved when whole: a run that was cut off leaves nothing that looks ready.
rm -rf "$root" "$cache/root.new"
say "debootstrap $suite from $mirror"
debootstrap --variant=minbase "$suite" "$cache/root.new" "$mirror" >"$cache/setup.log" 2>&1 ||
  { tail -5 "$cache/setup.log" >&2; say "debootstrap failed, see $cache/setup.log"; exit 1; }
say "installing QEMU"
# The chroot has no /proc, no services and no need of them: maintainer scripts are kept from starting any.
printf '#!/bin/sh\nexit 101\n' >"$cache/root.new/usr/sbin/policy-rc.d"
chmod 755 "$cache/root.new/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$cache/root.new/etc/resolv.conf" 2>/dev/null || true
cp /etc/hosts "$cache/root.new/etc/hosts" 2>/dev/null || true
if [ -d /etc/apt/apt.conf.d ]; then # A proxy that the machine needs is needed in there too.
  grep -rhi '^ *acquire::.*proxy' /etc/apt/apt.conf /etc/apt/apt.conf.d 2>/dev/null \
    >"$cache/root.new/etc/apt/apt.conf.d/90proxy" || true
fi
{
  DEBIAN_FRONTEND=noninteractive chroot "$cache/root.new" apt-get -q update &&
    DEBIAN_FRONTEND=noninteractive chroot "$cache/root.new" apt-get -q -y --no-install-recommends install \
      qemu-system-x86 qemu-system-common qemu-system-data qemu-utils seabios ipxe-qemu ovmf &&
    chroot "$cache/root.new" apt-get clean
} >>"$cache/setup.log" 2>&1 || { tail -5 "$cache/setup.log" >&2; say "apt-get failed, see $cache/setup.log"; exit 1; }
mv "$cache/root.new" "$root"
write_command qemu-system-x86_64 "-L \$root/usr/share/qemu -L \$root/usr/share/seabios -L \$root/usr/lib/ipxe/qemu"
write_command qemu-nbd ""
write_command qemu-img ""
is_ready || { "$command" --version >&2 || true; say "what was installed is not QEMU $major, see $cache/setup.log"; exit 1; }
say "ready: $("$command" --version | head -1)"
echo "$command"
