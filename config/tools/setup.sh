#!/usr/bin/env bash
# Makes this machine ready to build, test and run Twinrun. Run again it only checks, in under a second.
#
# usage: setup.sh STEP[,STEP...]...      one after the other, but side by side what commas join. Steps, in the order they are needed:
#   packages     Debian packages (QEMU, etcd, Go, client programs); their services are not started
#   modules      node_modules as package-lock.json names them, Node 24 among them (node_modules/.bin/node)
#   shim         the preload shim, build/twinrun-shim.so
#   guests       the guest images of the lab: a busybox and a whole Debian with PostgreSQL and Redis
#   qemu10       a second, newer QEMU beside the machine's own, for the tests that run against both
#   kubernetes   the programs of a Kubernetes, and Helm, built from their Go modules
#   launcher     the file system of the virt-launcher that the lab has instead of KubeVirt's: Debian 13 with libvirt and QEMU 10
#
# What takes long is kept outside the checkout, in ${TWINRUN_CACHE:-~/.cache/twinrun}, so that a second clone is ready at
# once. Installing packages needs root and apt; everything that is there already is left as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache=${TWINRUN_CACHE:-${HOME:-/root}/.cache/twinrun}
logs=$cache/logs
node=node_modules/.bin/node
modules_stamp=node_modules/.twinrun-lock-hash

# What has to be there, and the Debian package it comes from. A path or a command name; the first that exists will do.
requirements=(
  "/etc/ssl/certs/ca-certificates.crt ca-certificates"
  "npm npm"
  "node nodejs"
  "gcc gcc"
  "/usr/include/stdio.h libc6-dev"
  "ip iproute2"
  "nft nftables"
  "openssl openssl"
  "shellcheck shellcheck"
  "qemu-system-x86_64 qemu-system-x86"
  "qemu-img qemu-utils"
  "/usr/share/OVMF/OVMF_CODE.fd|/usr/share/OVMF/OVMF_CODE_4M.fd ovmf"
  "go golang-go"
  "etcd etcd-server"
  "redis-benchmark redis-tools"
  "psql postgresql-client"
  "/usr/lib/postgresql/*/bin/pgbench|/usr/libexec/postgresql*/pgbench postgresql-contrib"
  "debootstrap debootstrap"
  "/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring"
  "cpio cpio"
  "xz xz-utils"
  "mke2fs e2fsprogs"
  "unshare util-linux"
  "virsh libvirt-clients"
  "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so libvirt-daemon-driver-qemu"
  "xmllint libxml2-utils"
  "lua5.1|lua5.3|lua5.4|lua|luajit lua5.4"
)

say() { echo "setup: $*"; }
fail() {
  say "$*" >&2
  exit 1
}

# One line that is overwritten on a terminal; elsewhere a line every ten seconds, so that a log stays short.
show_progress() {
  local line said=$SECONDS
  while IFS= read -r line; do
    if [ "$line" = "" ]; then
      continue
    elif [ -t 1 ]; then
      printf '\r\033[K  %.100s' "$line"
    elif ((SECONDS - said >= 10)); then
      said=$SECONDS
      printf '  %.100s\n' "$line"
    fi
  done
  if [ -t 1 ]; then
    printf '\r\033[K'
  fi
}

# Runs a command with its output in a log and its progress on the screen; says where to look when it fails.
run_logged() {
  local log=$logs/$1.log
  shift
  if ! { "$@" </dev/null 2>&1 | tee "$log" | show_progress; }; then
    tail -n 15 "$log" >&2
    fail "failed: $* (all of its output: $log)"
  fi
}

has_requirement() {
  local candidates candidate
  IFS='|' read -r -a candidates <<<"$1"
  for candidate in "${candidates[@]}"; do
    case $candidate in
      /*) compgen -G "$candidate" >/dev/null && return 0 ;;
      *) command -v "$candidate" >/dev/null && return 0 ;;
    esac
  done
  return 1
}

# Names of packages, one a line; they have no spaces, so the callers let the shell split them.
list_missing_packages() {
  local requirement
  for requirement in "${requirements[@]}"; do
    has_requirement "${requirement% *}" || echo "${requirement##* }"
  done
}

# While packages are installed no service may be started: an etcd on this machine is nobody's wish.
install_packages() {
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  run_logged apt-update apt-get -q update
  run_logged apt-install apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install "$@"
  if [ "$(trap -p EXIT)" != "" ]; then
    rm -f "$policy"
    trap - EXIT
  fi
}

# shellcheck disable=SC2086
setup_packages() {
  local missing
  missing=$(list_missing_packages)
  if [ "$missing" = "" ]; then
    return
  fi
  if ! command -v apt-get >/dev/null; then
    fail "no apt-get here. Install what these Debian packages hold, then run make again:" $missing
  fi
  if [ "$(id -u)" != 0 ]; then
    fail "missing, and only root can install it. As root: apt-get install" $missing
  fi
  say "installing Debian packages:" $missing
  install_packages $missing
  missing=$(list_missing_packages)
  [ "$missing" = "" ] || fail "still missing after apt-get install:" $missing
}

hash_modules() {
  sha256sum <package-lock.json | cut -d' ' -f1
}

setup_modules() {
  local hash
  hash=$(hash_modules)
  if [ "$(cat "$modules_stamp" 2>/dev/null)" = "$hash" ] && [ -x "$node" ]; then
    return
  fi
  command -v npm >/dev/null || setup_packages
  say "installing node_modules from package-lock.json (npm ci)"
  # No package needs its install script: what is native comes ready in a package of its own. --loglevel=error: the npm of
  # an older Node would warn that the packages want Node 24, which is what they get.
  run_logged npm-ci npm ci --ignore-scripts --prefer-offline --no-audit --no-fund --no-update-notifier --loglevel=error
  # npm 9 (Debian 12) unpacks the package with Node 24 but makes no link to it.
  if [ ! -e "$node" ] && compgen -G "node_modules/node-linux-*/bin/node" >/dev/null; then
    (cd node_modules/.bin && ln -s ../node-linux-*/bin/node node)
  fi
  [ -x "$node" ] || fail "npm ci left no $node: there is no Node 24 for this kind of machine ($(uname -sm)) in package.json"
  "$node" -e 'process.exit(process.versions.node.startsWith("24.") ? 0 : 1)' || fail "$node is not Node 24: $("$node" --version)"
  echo "$hash" >"$modules_stamp"
}

setup_shim() {
  local hash
  hash=$(cat src/memory/shim/* | sha256sum | cut -d' ' -f1)
  if [ "$(cat build/twinrun-shim.hash 2>/dev/null)" = "$hash" ] && [ -e build/twinrun-shim.so ]; then
    return
  fi
  command -v gcc >/dev/null || setup_packages
  say "compiling build/twinrun-shim.so"
  sh src/memory/shim/build.sh
  echo "$hash" >build/twinrun-shim.hash
}

# The builder says what it does and, at the end, where the images are; the latter is nobody's question here.
setup_guests() {
  local line
  "$node" test/lab/images.ts | while IFS= read -r line; do
    case $line in
      busybox:* | debian:*) ;;
      *) say "$line" ;;
    esac
  done
}

setup_qemu10() {
  local line
  bash test/lab/qemu10.sh 2>&1 >/dev/null | while IFS= read -r line; do
    case $line in
      *": ready: "*) ;;
      *) say "$line" ;;
    esac
  done
}

setup_kubernetes() {
  bash test/lab/kubernetes/build.sh >/dev/null
}

setup_launcher() {
  local line
  "$node" test/lab/kubernetes/kubevirt/launcher-image.ts base | while IFS= read -r line; do
    say "$line"
  done
}

# Two runs at once take turns: both would write node_modules. What takes long has locks of its own.
take_turns() {
  exec 9>"$cache/setup.lock"
  flock --nonblock 9 || {
    say "another set-up is running, waiting for it"
    flock 9
  }
  "$@"
  exec 9>&-
}

run_step() {
  case $1 in
    packages | modules | shim) take_turns "setup_$1" ;;
    guests | qemu10 | kubernetes | launcher) "setup_$1" ;;
    *) fail "unknown step $1: packages, modules, shim, guests, qemu10, kubernetes, launcher" ;;
  esac
}

# Downloads and installations of one fill the pauses of another. Each is a process group, so that all of it ends when this does.
run_side_by_side() {
  local step group failed=
  set -m
  for step in "$@"; do
    run_step "$step" </dev/null &
    groups+=("$!")
  done
  set +m
  for group in "${groups[@]}"; do
    wait "$group" || failed=yes
  done
  groups=()
  [ "$failed" = "" ]
}

groups=()
end_groups() {
  local group
  for group in "${groups[@]}"; do
    kill -- "-$group" 2>/dev/null || true
  done
}
trap 'end_groups; exit 130' INT TERM HUP

mkdir -p "$logs"
for step in "$@"; do
  case $step in
    *,*)
      IFS=, read -r -a steps <<<"$step"
      run_side_by_side "${steps[@]}"
      ;;
    *) run_step "$step" ;;
  esac
done
