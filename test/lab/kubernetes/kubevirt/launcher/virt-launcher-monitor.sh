#!/bin/bash
# PID 1 of the compute container: starts virt-launcher and reaps what is orphaned. QEMU becomes a child of it, because libvirt
# makes a daemon of it. Ends as virt-launcher ends, and takes a QEMU that is left with it.
export XDG_RUNTIME_DIR=/var/run XDG_CONFIG_HOME=/var/run/kubevirt-private XDG_CACHE_HOME=/var/run/kubevirt-private
export HOME=/var/run/kubevirt-private
umask 0002
here=/usr/share/virt-launcher
"$here/bin/node" --disable-warning=ExperimentalWarning "$here/test/lab/kubernetes/kubevirt/launcher/virt-launcher.ts" "$@" &
launcher=$!
trap 'kill -TERM "$launcher" 2>/dev/null' TERM INT
status=
while kill -0 "$launcher" 2>/dev/null; do
  wait "$launcher"
  status=$?
done
echo "virt-launcher ended with status ${status:-unknown}"
exit "${status:-1}"
