#!/bin/bash
# Becomes a Kubernetes node: containerd, kubelet and kube-proxy, in namespaces that the caller made (test/lab/kubernetes/node.ts).
#
# usage: node.sh DIRECTORY NODE CGROUP      DIRECTORY is the node's disk; DEBIAN_ROOT, PROGRAMS, NODE_ADDRESS are set
#
# Root of new mount, PID and UTS namespaces, inside the network namespace of the node. With a PID namespace of its own a node
# ends as one, and what asks for the host's processes sees the node's; the cgroup keeps kubelets of one machine from
# taking each other's pods for strangers and deleting them.
#
# This script stays as the node's init: it starts what ends anew unless /run/lab/stopped/NAME exists.
set -euo pipefail
directory=$1 node=$2 cgroup=$3

hostname "$node"
# The programs may be in a place that the node's own places are about to cover.
mount -t tmpfs tmpfs /run
mkdir -p /run/lab/debian /run/lab/programs /run/lab/stopped
mount --bind "$DEBIAN_ROOT" /run/lab/debian
mount --bind "$PROGRAMS" /run/lab/programs
mount --bind "$directory/var-log" /var/log
mount --bind "$directory/var-lib" /var/lib

# By its control group it is known which processes are the node's.
join_hierarchies() {
  local controller list
  mount -t tmpfs cgroup /sys/fs/cgroup
  for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
    mkdir -p "/sys/fs/cgroup/$controller/$cgroup"
  done
  # A new cpuset is empty, and nothing can run in it.
  for list in cpus mems; do
    cat "/sys/fs/cgroup/cpuset/cpuset.$list" >"/sys/fs/cgroup/cpuset/$cgroup/cpuset.$list"
  done
  echo $$ >"/sys/fs/cgroup/pids/$cgroup/cgroup.procs"
}

# In the one hierarchy of cgroup v2 a group whose children have controllers holds no processes: the node's are beside its pods'.
join_unified() {
  local root=/sys/fs/cgroup controller controllers
  mount -t cgroup2 cgroup "$root"
  mkdir -p "$root/$cgroup"
  read -r -a controllers <"$root/cgroup.controllers"
  for controller in "${controllers[@]}"; do
    echo "+$controller" >"$root/cgroup.subtree_control"
    echo "+$controller" >"$root/$cgroup/cgroup.subtree_control"
  done
  mkdir -p "$root/$cgroup/system"
  echo $$ >"$root/$cgroup/system/cgroup.procs"
}

if grep -q ':memory:' /proc/self/cgroup; then
  join_hierarchies
else
  join_unified
fi
# Pods with two-way mounts need it. Not before the mounts above, which would then be seen in two places each.
mount --make-rshared /

# As systemd would.
keep() {
  local name=$1
  shift
  while :; do
    if [ ! -e "/run/lab/stopped/$name" ]; then
      "$@" >>"/var/log/$name.log" 2>&1 &
      echo $! >"/run/lab/$name.pid"
      wait $! || true
    fi
    sleep 0.2
  done
}

export PATH=/run/lab/programs:/run/lab/debian/usr/bin:/run/lab/debian/usr/sbin:$PATH
keep containerd containerd --config /var/lib/lab/containerd.toml &
keep kube-proxy kube-proxy --config=/var/lib/lab/kube-proxy.yaml &
until ctr --address /run/containerd/containerd.sock version >/dev/null 2>&1; do
  sleep 0.1
done
keep kubelet kubelet --config=/var/lib/lab/kubelet.yaml --kubeconfig=/var/lib/lab/kubeconfig \
  "--hostname-override=$node" "--node-ip=$NODE_ADDRESS" &
while :; do
  wait || true
done
